"""Every return value of PKCS#11 2.40 on every C function that the bridge calls, before and after its effect, once and every time.

One service runs through all cells: a fault is set, the request that comes to the function is made, the fault is taken back. Looked at are
what the caller got, that the service recovered or rightly stopped, that no wrong key was used (what was encrypted before opens, a
signature verifies under the recorded public key), that no acknowledged key is lost and no other object stays unreported, and that log or
journal name the return value. What is right in a cell comes from the recovery rules of the design notes, written down here once more as
`kind` and `allowed`, and not from the program.
"""

import json
import sys
import time

from cells import LEGEND, NOT_FAILED, TRIGGERS, Bench
from return_values import CODES, FEW, ONE_EACH
from starts import AT_STOP, STOPS, Starts

TOO_MANY = 200


def cells(everything, isolation):
    """(column, code, once or always), by column."""
    for column, trigger in TRIGGERS.items():
        for code in CODES if not trigger.process or isolation == "process" else ():
            if everything or code in (FEW if trigger.process else ONE_EACH) or column == "C_Decrypt":
                for times in ("once", "always"):
                    if everything or times == "once" or column == "C_Decrypt":
                        yield column, code, times, trigger


class Run:
    """One service through all cells."""

    def __init__(self, everything, isolation, only, part):
        self.everything, self.isolation, self.only, self.part = everything, isolation, only, part
        self.bench, self.began = Bench(isolation), time.monotonic()
        # Letters by headline, code and column.
        self.found, self.failures, self.tried, self.begun = {}, [], 0, set()

    def wanted(self, column):
        return not self.only or column in self.only or function_of(column) in self.only

    def all(self):
        if self.part in (None, "running"):
            self.running()
        if self.part in (None, "starts"):
            self.starts()
        self.nothing_forgotten()
        return self.bench.finish()

    def running(self):
        for column, code, times, trigger in cells(self.everything, self.isolation):
            if self.wanted(column):
                self.one(times, code, column, [
                    (when, lambda when=when: self.bench.cell(function_of(column), code, when, times, trigger)) for when in ("before", "after")])
                process = self.bench.instance.process
                assert process.poll() is None, f"the server ended at {column} {code} {times}\n{self.bench.instance.said()[-3000:]}"

    def starts(self):
        starts = Starts(self.bench)
        for headline, function, code, tries in starts.cells(self.everything):
            if self.wanted(function):
                self.one(headline, code, function, [
                    (when, lambda when=when, nth=nth: starts.cell(function, code, when, nth)) for when, nth in tries])
        for function in STOPS:
            for code in ONE_EACH if self.everything else FEW:
                if self.wanted(function):
                    self.one(AT_STOP, code, function, [
                        (when, lambda when=when: starts.at_stop(function, code, when)) for when in ("before", "after")])
        starts.start()

    def one(self, headline, code, column, tries):
        letters = ""
        for when, attempt in tries:
            letter, wrong = attempt()
            letters += letter + ("!" if wrong else "")
            new = [f"{column} {code} {when} {headline}: {one} [{letter}]" for one in wrong]
            self.failures += new
            self.tried += 1
            if new:
                print(*new, sep="\n", file=sys.stderr, flush=True)
            assert len(self.failures) < TOO_MANY, "too many failures"
        self.found[headline, code, column] = letters
        if (headline, column) not in self.begun:
            self.begun.add((headline, column))
            print(f"{time.monotonic() - self.began:.0f} s: {column}, {headline}", file=sys.stderr, flush=True)

    def nothing_forgotten(self):
        """Every function that the bridge called in all this has a column, here or in another part."""
        called = {call.function for call in self.bench.faults.calls()} - set(NOT_FAILED)
        forgotten = called - {function_of(column) for column in TRIGGERS} - set(STOPS)
        if forgotten:
            self.failures.append(f"called and without a column: {sorted(forgotten)}")

    def show(self):
        for headline in dict.fromkeys(at[0] for at in self.found):
            columns = list(dict.fromkeys(at[2] for at in self.found if at[0] == headline))
            print(f"\n{self.isolation}, {headline}")
            width = 36
            for number, column in enumerate(columns):
                print(" " * width + "    |" * number + f"    {column}")
            for code in CODES:
                row = [self.found.get((headline, code, column), "") for column in columns]
                if any(row):
                    print(f"{code:<{width}}" + "".join(f"{cell:>5}" for cell in row))
        print(LEGEND)
        print(f"failures: {len(self.failures)}", *self.failures, sep="\n  ", flush=True)


def function_of(column):
    return column.partition("/")[0]


def run(everything, isolation, only=None, part=None):
    one = Run(everything, isolation, only, part)
    try:
        outside = one.all()
    except BaseException:
        one.show()
        print(f"soak matrix: the server's last words:\n{one.bench.instance.said()[-4000:]}\nkept {one.bench.instance.root}", file=sys.stderr)
        one.bench.instance.kill()
        raise
    one.show()
    functions = len({function_of(column) for _, _, column in one.found})
    print(json.dumps({"soak": "matrix", "isolation": isolation, "cells": one.tried, "functions": functions,
                      "seconds": round(time.monotonic() - one.began, 1), "keys": len(one.bench.ledger.keys), "token": outside,
                      "failures": len(one.failures)}), flush=True)
    return one.failures


def soak(everything, isolations, only=None, part=None):
    failures = [failure for isolation in isolations for failure in run(everything, isolation, only, part)]
    assert not failures, f"{len(failures)} cells failed"
