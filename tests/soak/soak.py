"""Long runs: `soak.py NAME --rounds N`. NAME is audit, kill, generate, rotate, all (of these), outage or matrix. `small` rounds are what every run of the tests does."""

import argparse
import json
import random
import secrets
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from instance import Instance, disk_dir  # noqa: E402
from audit import Audit  # noqa: E402
from generate import Generate  # noqa: E402
from judge import Judge, Ledger  # noqa: E402
from kill import Kill  # noqa: E402
import matrix  # noqa: E402
import outage  # noqa: E402
from rotate import Rotate  # noqa: E402

SOAKS = {"audit": Audit, "kill": Kill, "generate": Generate, "rotate": Rotate}
SMALL = {"audit": 8, "kill": 5, "generate": 15, "rotate": 12}
# Kills that came too early or too late do not count; so many for each that does are too many.
TRIES = 6


def soak(name, rounds, seed):
    dice, attack = random.Random(f"{name} {seed}"), SOAKS[name]()
    journal = disk_dir(name)
    instance = Instance(name, audit_dir=journal)
    ledger = Ledger()
    judge = Judge(instance, ledger, seed)
    starts, began = [], time.monotonic()
    try:
        if hasattr(attack, "prepare"):
            attack.prepare(instance)
        instance.init()
        starts.append(timed_start(instance, judge))
        attack.warm_up(instance, ledger)
        look(judge, attack)
        done = tries = 0
        while done < rounds:
            tries += 1
            assert tries <= TRIES * rounds + 20, f"only {done} of {tries} kills met what they aimed at"
            ledger.begin_round()
            attack.attack(instance, ledger, dice, done)
            starts.append(timed_start(instance, judge))
            look(judge, attack)
            done += attack.hit(judge.starts[-1])
            if tries % 25 == 0:
                progress(name, done, tries, ledger, starts, began)
        judge.look(everything=True)
        outside = judge.check_token_from_outside()
        instance.stop()
        judge.read_journal()
        judge.journal.reread_all()
        assert instance.verify()["verdict"] == "OK"
    except BaseException:
        print(f"soak {name}: seed {seed}, after {len(starts)} starts; the server's last words:\n{instance.said()[-4000:]}", file=sys.stderr)
        instance.kill()
        print(f"soak {name}: kept {instance.root} and {journal}", file=sys.stderr)
        raise
    print(json.dumps({
        "soak": name, "rounds": done, "seconds": round(time.monotonic() - began, 1),
        "acknowledged": {"requests": len(ledger.requests), "keys": len(ledger.keys), "aliases": len(ledger.aliases),
                         "ciphertexts": len(ledger.sealed), "signatures": len(ledger.signed)},
        "unanswered": dict(ledger.unanswered), "unknown outcomes": dict(judge.effects),
        "records": len(judge.journal.records), "token": outside, **attack.about(judge),
        "start seconds": {"first": round(starts[0], 2), "median": round(statistics.median(starts), 2),
                          "longest": round(max(starts), 2), "last": round(starts[-1], 2)},
    }, indent=1), flush=True)
    instance.close()
    shutil.rmtree(journal, ignore_errors=True)


def look(judge, attack):
    judge.look()
    if hasattr(attack, "look"):
        attack.look(judge)


def timed_start(instance, judge):
    began = time.monotonic()
    instance.start()
    judge.connect()
    return time.monotonic() - began


def progress(name, done, tries, ledger, starts, began):
    print(f"{name}: {done} rounds, {tries} kills, {len(ledger.keys)} keys, {len(ledger.requests)} requests, last start "
          f"{starts[-1]:.2f} s, {time.monotonic() - began:.0f} s in all", flush=True)


def rounds(text):
    return text if text == "small" else int(text)


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak")
    parser.add_argument("name", choices=[*SOAKS, "all", "outage", "matrix"])
    parser.add_argument("--rounds", type=rounds, default="small", metavar="N", help="a number, or `small`")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the random choices; printed when a run fails")
    parser.add_argument("--side", choices=list(outage.SMALL), default="container", help="where the token of `outage` is")
    parser.add_argument("--all", action="store_true", help="every cell of `matrix`, not one return value of each class")
    parser.add_argument("--isolation", choices=["in-process", "process", "both"], default="both", help="of `matrix`")
    parser.add_argument("--function", action="append", help="of `matrix`: this one alone; can be given several times")
    parser.add_argument("--part", choices=["running", "starts"], help="of `matrix`: the cells of a running service, or those of its start alone")
    options = parser.parse_args()
    names, began = list(SOAKS) if options.name == "all" else [options.name], time.monotonic()
    for name in names:
        if name == "matrix":
            matrix.soak(options.all, ["in-process", "process"] if options.isolation == "both" else [options.isolation], options.function, options.part)
            continue
        if name == "outage":
            outage.soak(options.rounds, options.seed, options.side)
            continue
        soak(name, SMALL[name] if options.rounds == "small" else options.rounds, options.seed)
    print(f"{len(names)} passed in {time.monotonic() - began:.1f}s")


if __name__ == "__main__":
    main()
