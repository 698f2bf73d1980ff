"""The matrix's cells at the start: the same return values in the calls of a start, and at the stop in those that keep the head of the log.

What a start calls is read from the log of one without faults, so that no function is forgotten. Right is: the service serves in spite
of it; or it answers with an error that clients try again, is not ready, and heals by itself; or it ends with the exit code that the
operations page names for it. A PIN is tried once, and a start that met a fault offers what any other one does.
"""

import json
import re

from cells import HEALED, NOT_FAILED
from faults import rule
from instance import until
from return_values import CANNOT, FEW, ONE_EACH, at_start, is_no_error, kind

# Exit codes.
EXITS = {69: "X", 77: "S"}
FIRST, EVERY, AT_STOP = "start, the first call", "start, every call", "stop, the first call"
# The head of the log is written into its object, or into a new one where that is refused.
STOPS = {"C_SetAttributeValue": [], "C_CreateObject": [rule("C_SetAttributeValue", returns="CKR_ATTRIBUTE_READ_ONLY")]}


class Starts:
    def __init__(self, bench):
        self.bench, self.instance, self.faults = bench, bench.instance, bench.faults
        self.stop()
        since = self.faults.mark()
        self.start()
        calls = [call.function for call in self.faults.calls(since=since) if call.function not in NOT_FAILED]
        # In the order in which they come first, and how often.
        self.called = {function: calls.count(function) for function in calls}
        self.abilities = self.offers()
        self.stop()

    def cells(self, everything):
        """Headline, function, code, and how a cell of it is tried: before or after the effect, and which call."""
        for function, count in self.called.items():
            for code in ONE_EACH if everything else FEW:
                yield FIRST, function, code, [(when, 1) for when in ("before", "after")[:1 + everything]]
                if everything or code == "CKR_DEVICE_ERROR":
                    yield EVERY, function, code, [(when, None) for when in ("before", "after")[:1 + everything]]
            # Not only the first: a start comes to a function in several places.
            for nth in sorted({2, count // 2, count} - {0, 1}) if everything else ():
                for code in FEW:
                    yield f"start, call {nth} of {count}", function, code, [("before", nth)]
        if not everything:
            yield FIRST, "C_Login", "CKR_PIN_LOCKED", [("before", 1)]

    def stop(self):
        self.instance.stop()

    def start(self):
        self.instance.start()
        self.connect()

    def connect(self):
        self.bench.judge.connect()
        self.bench.client = self.bench.judge.client

    def offers(self):
        """What the token was found to be able to do."""
        found = json.loads(self.instance.run("doctor", "--json").stdout)
        return {key: found["tokens"][0][key] for key in ("keySpecs", "oaepHashes", "pssHashes", "ivContract")}

    def at_stop(self, function, code, when):
        """The last calls of a run: nobody waits for them, and the next run makes up for them."""
        bench, wrong = self.bench, []
        self.start()
        bench.mark()
        bench.encrypt()
        bench.rule = f"stop-{function}-{code}-{when}"
        self.faults.set(*STOPS[function], rule(function, nth=1, returns=code, when=when, name=bench.rule))
        self.stop()
        self.faults.clear()
        if not bench.reached():
            wrong.append("the function was not called")
        if not bench.told(code):
            wrong.append("neither the log nor the journal names the return value")
        return "a", wrong

    # -- one cell -----------------------------------------------------------------------------------------------------------

    def cell(self, function, code, when, nth):
        """The letter, and what is wrong with it. `nth`: of the calls of this function; `None`: all of them."""
        bench, wrong = self.bench, []
        bench.mark()
        bench.rule = f"start-{function}-{code}-{when}-{nth}"
        # Each try may be another worker process.
        which = {"nth": nth, "count_over_processes": True} if nth else {}
        self.faults.set(rule(function, returns=code, when=when, name=bench.rule, **which))
        self.instance.spawn()
        letter = until("the service serves, waits or ends", self.outcome, HEALED * 2)
        if letter == "d":
            wrong += self.degraded()
            if nth is None:
                self.faults.clear()
        elif letter not in "a":
            ended = self.instance.wait_for_exit()
            letter = EXITS.get(ended, f"?{ended}")
        reached, told = bench.reached(), bench.told(code)
        if letter not in ("a", "d"):
            self.faults.clear()
            tries = sum(call.function == "C_Login" for call in bench.calls_since())
            if tries > 1:
                wrong.append(f"{tries} times C_Login")
            if kind(code, function) == "operator":
                self.instance.run("token", "pin", "--retry")
            self.instance.spawn()
        self.bench.wait("the service serves", self.serves, wrong)
        if wrong:
            self.instance.kill()
            self.faults.clear()
            self.start()
            self.stop()
            return letter, wrong
        self.faults.clear()
        self.connect()
        bench.wait("the service is well", bench.is_well, wrong)
        if not reached:
            wrong.append("the function was not called")
        if not wrong:
            wrong += bench.judged(None)
        if letter not in at_start(code, function):
            wrong.append("this outcome is not right")
        if not (told or is_no_error(code, function)):
            wrong.append("neither the log nor the journal names the return value")
        # A token that always says no, whatever it means by it, cannot.
        cannot = kind(code, function) in CANNOT or (nth is None and kind(code, function) == "ambiguous")
        if letter in "ad" and not cannot and self.offers() != self.abilities:
            wrong.append(f"the service offers less than after another start: {self.offers()}")
        self.stop()
        return letter, wrong

    def outcome(self):
        if self.instance.process.poll() is not None:
            return "exit"
        said = self.instance.said()
        return "d" if "not ready: every request" in said else "a" if " serving address=" in said else None

    def serves(self):
        assert self.instance.process.poll() is None, f"exit code {self.instance.process.returncode}\n{self.instance.said()[-2000:]}"
        if " serving address=" in self.instance.said():
            self.instance.wait_until_serving()
            return True
        return False

    def degraded(self):
        """Callers are told to come again, and whoever looks after the service that it is not ready."""
        address = re.search(r"not ready: .*address=(\S+)", self.instance.said()).group(1)
        if " serving address=" in self.instance.said():
            # It was away for a moment only.
            return []
        self.instance.address = address
        self.instance.find_metrics()
        reply, (ready, _) = self.instance.raw().call("ListKeys", {}), self.instance.admin("/readyz")
        if " serving address=" in self.instance.said():
            return []
        told = (reply.status, reply.type, ready)
        return [] if told == (503, "DependencyTimeoutException", 503) else [f"callers got {told}"]
