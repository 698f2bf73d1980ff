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

from cells import LEGEND, TRIGGERS, Bench
from return_values import CODES, ONE_EACH

TOO_MANY = 200


def cells(everything, isolation):
    """(column, code, once or always), by column."""
    for column, trigger in TRIGGERS.items():
        for code in CODES if not trigger.process or isolation == "process" else ():
            if everything or code in ONE_EACH or column == "C_Decrypt":
                for times in ("once", "always"):
                    if everything or times == "once" or column == "C_Decrypt":
                        yield column, code, times, trigger


def run(everything, isolation, only=None):
    bench, found, failures, last, began = Bench(isolation), {}, [], None, time.monotonic()
    try:
        for column, code, times, trigger in cells(everything, isolation):
            function = function_of(column)
            if only and column not in only and function not in only:
                continue
            letters = ""
            for when in ("before", "after"):
                letter, wrong = bench.cell(function, code, when, times, trigger)
                letters += letter + ("!" if wrong else "")
                new = [f"{column} {code} {when} {times}: {one} [{letter}]" for one in wrong]
                failures += new
                if new:
                    print(*new, sep="\n", file=sys.stderr, flush=True)
                assert len(failures) < TOO_MANY, "too many failures"
                assert bench.instance.process.poll() is None, f"the server ended at {column} {code} {when} {times}\n{bench.instance.said()[-3000:]}"
            found[times, code, column] = letters
            if column != last:
                last = column
                print(f"{time.monotonic() - began:.0f} s: {column}", file=sys.stderr, flush=True)
        outside = bench.finish()
    except BaseException:
        show(found, failures, isolation)
        print(f"soak matrix: the server's last words:\n{bench.instance.said()[-4000:]}\nkept {bench.instance.root}", file=sys.stderr)
        bench.instance.kill()
        raise
    show(found, failures, isolation)
    print(json.dumps({"soak": "matrix", "isolation": isolation, "cells": 2 * len(found), "seconds": round(time.monotonic() - began, 1),
                      "keys": len(bench.ledger.keys), "token": outside, "failures": len(failures)}), flush=True)
    return failures


def function_of(column):
    return column.partition("/")[0]


def show(found, failures, isolation):
    for times in ("once", "always"):
        columns = [column for column in TRIGGERS if any(at[0] == times and at[2] == column for at in found)]
        if not columns:
            continue
        print(f"\n{isolation}, {times}")
        width = 36
        for number, column in enumerate(columns):
            print(" " * width + "    |" * number + f"    {column}")
        for code in CODES:
            row = [found.get((times, code, column), "") for column in columns]
            if any(row):
                print(f"{code:<{width}}" + "".join(f"{cell:>5}" for cell in row))
    print(LEGEND)
    print(f"failures: {len(failures)}", *failures, sep="\n  ", flush=True)


def soak(everything, isolations, only=None):
    failures = [failure for isolation in isolations for failure in run(everything, isolation, only)]
    assert not failures, f"{len(failures)} cells failed"
