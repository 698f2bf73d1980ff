//! Who may: the decision over what was resolved. The full policy engine is a later issue; today the account's root user
//! may do anything, the local operator what the configuration lists, the service its timers, and everybody else nothing.
//! A pure function over a snapshot: no HTTP, no token, no clock.
