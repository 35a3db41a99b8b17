"""The tables of WebSocket events in docs/api.md, walked: what the page says of a field is what happens.

A table stands under `<!-- events: TYPE OBJECT -->`: fields of that object of the client's event (`-`: of the
event itself). `used`: the event is taken; `refused: CODE`: the answer is an error with that code which names
the field.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cadence.server.realtime.settings import ResponseBody, SessionBody
from cadence.server.speech_stream.schema import StreamOptions

from .conftest import Live
from .test_field_tables import TABLES as FIELD_TABLES
from .test_field_tables import Row
from .test_sockets import opening, receive

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^<!-- events: (\S+) (\S+) -->\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| `(.+?)` \| (.+) \|$")
FIELDS = {
    "session.update": {*SessionBody.model_fields, *SessionBody.unsupported},
    "response.create": {*ResponseBody.model_fields, *ResponseBody.unsupported},
    "session.config": {*StreamOptions.model_fields},
}
SPEECH_ROWS = FIELD_TABLES["POST /v1/audio/speech"]
NOT_HERE = {"stream", "stream_format", "word_timestamps"}  # in another form
GOOD = {
    "session.update": "session.updated",
    "response.create": "response.created",
    "session.config": "session.done",
}

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
    full_name = field if inner == "-" else f"{inner}.{field}"
    *path, last = full_name.split(".")
    place = event
    for name in path:
        place = place.setdefault(name, {})
    if path and path[-1] == "turn_detection":
        place["type"] = "server_vad"
    place[last] = json.loads(example)
    companions = re.search(r"with `(\{.*?\})`", treatment)
    event |= json.loads(companions[1]) if companions else {}
    answer = await (_configure if kind == "session.config" else _send)(live, event)
    refused = re.match(r"refused: (\w+)", treatment)
    if refused is None:
        assert treatment.startswith("used")
        assert answer["type"] == GOOD[kind], answer
    else:
        error = answer["error"] if isinstance(answer.get("error"), dict) else answer
        assert (error["code"], error["param"]) == (refused[1], full_name)


async def _send(live: Live, event: dict[str, Any]) -> dict[str, Any]:
    async with opening(live) as connection:
        await receive(connection)
        await connection.send(json.dumps(event))
        return await receive(connection)


async def _configure(live: Live, event: dict[str, Any]) -> dict[str, Any]:
    """A config is not answered; an utterance without text is, if it was taken."""
    async with opening(live, "/v1/audio/speech/stream") as connection:
        await connection.send(json.dumps(event))
        await connection.send(json.dumps({"type": "input.done"}))
        return await receive(connection)


@pytest.mark.parametrize("row", [row for row in SPEECH_ROWS if not NOT_HERE & row.body().keys()], ids=str)
async def test_a_config_takes_the_fields_of_a_speech_request(live: Live, row: Row) -> None:
    event = {name: value for name, value in row.body().items() if name != "input"}
    answer = await _configure(live, {"type": "session.config", **event})
    if row.refusal is None:
        assert answer["type"] == "session.done", answer
    else:
        assert (answer["code"], answer["param"]) == (row.refusal, row.field)


@pytest.mark.parametrize("kind", FIELDS)
def test_every_field_has_a_row(kind: str) -> None:
    listed = {row[1].split(".")[0] for row in TABLES[kind][1] if row}
    assert listed == FIELDS[kind]
