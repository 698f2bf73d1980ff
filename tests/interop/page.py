"""docs/clients.md, whose blocks the tests run."""

import re

from bridge import REPOSITORY

PAGE = REPOSITORY / "docs/clients.md"
# What stands in the page for an endpoint.
ENDPOINT = "http://127.0.0.1:8443"


def block(tag, **values):
    """The one fenced block whose info string is `tag`, with each name of `values` that stands in it replaced."""
    found = re.findall(rf"^```{re.escape(tag)}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(found) == 1, f"{PAGE.name} has {len(found)} blocks `{tag}`"
    text = found[0]
    for name, value in values.items():
        assert name in text, f"block `{tag}` has no {name}"
        text = text.replace(name, value)
    return text
