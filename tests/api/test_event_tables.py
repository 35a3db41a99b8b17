"""The tables of WebSocket events in docs/api.md, walked: what the page says of a field is what happens.

A table stands under `<!-- events: TYPE OBJECT -->`: fields of that object of the client's event. `used`: the
event is answered; `refused: CODE`: the answer is an error with that code which names the field.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cadence.server.realtime.settings import ResponseBody, SessionBody

from .conftest import Live
from .test_sockets import opening, receive

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^<!-- events: (\S+) (\S+) -->\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| `(.+?)` \| (.+) \|$")
BODIES = {"session.update": SessionBody, "response.create": ResponseBody}
GOOD = {"session.update": "session.updated", "response.create": "response.created"}

TABLES = {
    kind: (inner, [ROW.match(line) for line in rows.splitlines()[2:]])
    for kind, inner, rows in TABLE.findall(PAGE)
}
ROWS = [
    pytest.param(kind, inner, row, id=f"{kind}-{row[1] if row else number}")
    for kind, (inner, rows) in TABLES.items()
    for number, row in enumerate(rows)
]


@pytest.mark.parametrize(("kind", "inner", "row"), ROWS)
async def test_a_field_is_treated_as_documented(
    live: Live, kind: str, inner: str, row: re.Match[str] | None
) -> None:
    assert row, "this row is not `field` | `example` | treatment"
    field, example, treatment = row.groups()
    event: dict[str, Any] = {"type": kind}
    *path, last = [inner, *field.split(".")]
    place = event
    for name in path:
        place = place.setdefault(name, {})
    if path[-1] == "turn_detection":
        place["type"] = "server_vad"
    place[last] = json.loads(example)
    async with opening(live) as connection:
        await receive(connection)
        await connection.send(json.dumps(event))
        answer = await receive(connection)
    refused = re.match(r"refused: (\w+)", treatment)
    if refused is None:
        assert treatment.startswith("used")
        assert answer["type"] == GOOD[kind], answer
    else:
        assert (answer["error"]["code"], answer["error"]["param"]) == (refused[1], f"{inner}.{field}")


@pytest.mark.parametrize("kind", BODIES)
def test_every_field_has_a_row(kind: str) -> None:
    known = {*BODIES[kind].model_fields, *BODIES[kind].unsupported}
    listed = {row[1].split(".")[0] for row in TABLES[kind][1] if row}
    assert listed == known
