"""Reading server-sent events in tests."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_events"]


def read_events(text: str) -> list[tuple[str | None, Any]]:
    """(event name, data) of each event; data is parsed unless it is the literal [DONE]."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found
