"""What every test asks of an answer: the exact error, the exact members."""

import re

import pytest
from botocore.exceptions import ClientError

ABSENT = object()


class Refused:
    """Filled by `refused` once the call has failed as it should."""

    code = message = status = None
    response = None


class refused:
    """`with refused("NotFoundException", "text"):` The call must fail with this code, HTTP 400 (or `status`), and this
    text: a string is compared whole, a compiled pattern is matched whole, ABSENT means that there is no text at all."""

    def __init__(self, code, message=None, status=400):
        self.code, self.message, self.status, self.seen = code, message, status, Refused()

    def __enter__(self):
        return self.seen

    def __exit__(self, kind, error, _):
        if kind is None:
            pytest.fail(f"the call succeeded, {self.code} was expected")
        if not issubclass(kind, ClientError):
            return False
        body = error.response
        self.seen.response, self.seen.code = body, body["Error"]["Code"]
        self.seen.message = body["Error"].get("Message", "")
        assert self.seen.code == self.code, body
        assert body["ResponseMetadata"]["HTTPStatusCode"] == self.status, body
        assert body["ResponseMetadata"].get("RequestId"), body
        check_text(self.seen.message or None, self.message)
        if self.message is ABSENT:
            assert "message" not in body and "Message" not in body, body
        return True


def check_text(text, expected):
    if expected is None:
        return
    if expected is ABSENT:
        assert text is None, text
    elif isinstance(expected, re.Pattern):
        assert text is not None and expected.fullmatch(text), f"{text!r} is not {expected.pattern!r}"
    else:
        assert text == expected


def members(answer):
    """An answer of boto3 without botocore's own member."""
    return {k: v for k, v in answer.items() if k != "ResponseMetadata"}


def one_validation_error(rest):
    return f"1 validation error detected: {rest}"


def dry_run():
    return refused("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
