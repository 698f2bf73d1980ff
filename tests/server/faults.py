"""tests/pkcs11-faults between a program and its token: what fails, and how the token behaves, changed while the program runs.

    faults = Faults(instance, profile="luna", behaviour={"max_sessions": 4})
    faults.install(instance)                                    # before `init` or the next start
    faults.set(rule("C_Decrypt", nth=3, returns="CKR_DEVICE_ERROR"))
    faults.clear()
    faults.count("C_Login")
"""

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bridge import binary
from instance import MODULE, toml, until

LIBRARY = binary().parent / "libpkcs11_faults.so"


def rule(function, returns=None, **members):
    """One rule of the script; `returns` is its `return`, all others have their names there."""
    return {"function": function} | members | ({} if returns is None else {"return": returns})


class Call(NamedTuple):
    pid: int
    function: str
    # A name of PKCS#11, a number in hex, or `hangs` and `dies`.
    result: str
    # `real`, `rule:…`, or the behaviour that refused.
    by: str
    microseconds: int
    thread: int
    # CKA_ID in hex, with `log_keys`.
    key: str | None

    @property
    def injected(self):
        return self.by.startswith("rule:")


class Faults:
    def __init__(self, instance, *rules, name="faults", profile=None, behaviour=None, log_keys=False, module=MODULE):
        assert LIBRARY.is_file(), f"{LIBRARY} does not exist: cargo build --workspace"
        self.script, self.log = instance.root / f"{name}.toml", instance.root / f"{name}.log"
        self.profile, self.behaviour, self.log_keys = profile, dict(behaviour or {}), log_keys
        self.versions = itertools.count()
        self.environment = {"SOFTHSM2_CONF": str(instance.softhsm_conf), "HSM_BRIDGE_FAULTS_MODULE": module,
                            "HSM_BRIDGE_FAULTS_SCRIPT": str(self.script), "HSM_BRIDGE_FAULTS_LOG": str(self.log)}
        # The section [token] of the configuration.
        self.token = {"module": str(LIBRARY), "environment": self.environment}
        self.set(*rules)

    def install(self, instance):
        instance.sections["token"] = instance.sections.get("token", {}) | self.token
        if instance.config.exists():
            instance.write_config()
        return self

    # -- the script ---------------------------------------------------------------------------------------------------

    def set(self, *rules):
        """From the next C call on, in every process: these rules and no others. Calls that hang until the script changes go on."""
        lines = [f"# version {next(self.versions)}", f"log_keys = {toml(self.log_keys)}"]
        if self.profile:
            lines.append(f"profile = {toml(self.profile)}")
        refusals = self.behaviour.get("refuse", [])
        lines += ["[behaviour]", *(f"{key} = {toml(value)}" for key, value in self.behaviour.items() if key != "refuse")]
        for header, tables in (("behaviour.refuse", refusals), ("rule", rules)):
            for table in tables:
                lines += [f"[[{header}]]", *(f"{key} = {toml(value)}" for key, value in table.items())]
        newer = self.script.with_suffix(".new")
        newer.write_text("\n".join(lines) + "\n")
        os.replace(newer, self.script)
        return self

    def clear(self):
        return self.set()

    def behave(self, *rules, **behaviour):
        """Another behaviour from now on; `None` takes one back."""
        self.behaviour = {key: value for key, value in (self.behaviour | behaviour).items() if value is not None}
        return self.set(*rules)

    # -- the log ------------------------------------------------------------------------------------------------------

    def calls(self, function=None, since=0):
        """The calls so far, from the `since`-th of all functions on."""
        if not self.log.exists():
            return []
        # Without a line that is being written.
        lines = self.log.read_text().split("\n")[:-1]
        return [call for call in map(parsed, lines[since:]) if function in (None, call.function)]

    def mark(self):
        """For `since`."""
        return len(self.calls())

    def count(self, function, since=0, by=None):
        """Calls that came back."""
        return sum(1 for call in self.calls(function, since)
                   if call.result not in ("hangs", "dies") and by in (None, call.by))

    def by_function(self, since=0):
        return Counter(call.function for call in self.calls(since=since))

    def injected(self, since=0):
        return [call for call in self.calls(since=since) if call.injected]

    def wait_for(self, function, result, since=0):
        """Until such a call is in the log; gives it."""
        def look():
            return [call for call in self.calls(function, since) if call.result == result]
        return until(f"{function} {result} in {self.log.name}", look)[0]


def parsed(line):
    words = line.split(" ")
    pid, function, result, by, microseconds, thread, *more = words
    return Call(int(pid), function, result, by, int(microseconds), int(thread), more[0].partition("=")[2] if more else None)
