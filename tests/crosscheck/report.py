"""One run of the script, and what it printed."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMEOUT = 300


class Report:
    """What one run of the script printed."""

    def __init__(self, done):
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        lines = done.stdout.splitlines()
        start = next((n for n, line in enumerate(lines) if line.startswith("check  ")), len(lines))
        body = lines[start + 1:]
        table = body[:body.index("")] if "" in body else []
        self.rows = [(cells + ["", "", ""])[:4] for cells in (split(line) for line in table)]
        self.last = lines[-1] if lines else ""

    def results(self, word):
        """check and judge → result, of the rows whose check holds this word."""
        return {(check, judge): result for check, judge, result, _ in self.rows if word in check}

    def __str__(self):
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


def split(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def run_crosscheck(env, *args):
    done = subprocess.run([sys.executable, HERE / "crosscheck.py", *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT,
                          env=env, stdin=subprocess.DEVNULL)
    return Report(done)
