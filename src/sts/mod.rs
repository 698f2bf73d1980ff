//! The STS front (Query protocol): GetCallerIdentity.
