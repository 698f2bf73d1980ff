"""The table: one row for each question that was put to a judge, printed as soon as it is answered."""

from contextlib import contextmanager

from botocore.exceptions import ClientError

OK, FAILED, NOT_SERVED, NOT_AVAILABLE = "ok", "FAILED", "not served", "not available"
WIDTHS = (78, 19, 13)


class Wrong(Exception):
    """A judge disagrees."""


class NotAvailable(Exception):
    """A judge cannot do this, or a command is not there: nothing was judged."""


class Table:
    def __init__(self, out):
        self.out, self.rows = out, []

    @contextmanager
    def row(self, check, judge):
        """Whatever the body raises is this row's result: nothing that goes wrong is left out. Its notes are a list."""
        notes = []
        try:
            yield notes
        except NotAvailable as reason:
            self.add(check, judge, NOT_AVAILABLE, reason)
        except ClientError as error:
            told = error.response["Error"]
            result = NOT_SERVED if told["Code"] == "UnsupportedOperationException" else FAILED
            self.add(check, judge, result, f"{told['Code']}: {told.get('Message', '')}")
        except Wrong as reason:
            self.add(check, judge, FAILED, reason)
        except Exception as error:  # noqa: BLE001
            self.add(check, judge, FAILED, f"{type(error).__name__}: {error}")
        else:
            self.add(check, judge, OK, ", ".join(notes))

    def heading(self, lines):
        for line in lines:
            self.line(line)
        self.line("")
        self.line(columns(("check", "judge", "result", "note")))

    def add(self, check, judge, result, note=""):
        row = (check, judge, result, " ".join(str(note).split()))
        self.rows.append(row)
        self.line(columns(row))

    def line(self, text):
        print(text, file=self.out, flush=True)

    @property
    def failed(self):
        return sum(result == FAILED for _, _, result, _ in self.rows)

    @property
    def judged(self):
        return len(self.rows) - len(self.silent)

    @property
    def silent(self):
        return [(check, result) for check, _, result, _ in self.rows if result in (NOT_SERVED, NOT_AVAILABLE)]

    def finish(self):
        """The summary; its last line is `N checks, M failed`. What was not judged is no check."""
        self.line("")
        if self.silent:
            self.line(f"{len(self.silent)} not judged: " + "; ".join(f"{check} ({result})" for check, result in self.silent))
        self.line(f"{self.judged} checks, {self.failed} failed")


def columns(cells):
    # At least two spaces between cells: other programs split there.
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS)]
    return "  ".join([*padded, *cells[len(WIDTHS):]]).rstrip()


def expect(condition, text):
    if not condition:
        raise Wrong(text)


def equal(what, found, wanted):
    if found != wanted:
        raise Wrong(f"{what} is {shown(found)}, not {shown(wanted)}")


def shown(value):
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
