"""The field tables of docs/api.md, walked: what the page says of a field is what the server does.

A table stands under `<!-- fields: METHOD /path -->` and has the columns field, example and treatment.
`example` is JSON. A treatment starts with `used`, then a minimal request with the field set to the example
is answered 2xx, or with `refused: CODE`, then it is a 4xx whose error has that code and names the field.
In JSON, a string `"@name.wav"` stands for one second of sound in base64.
A field that makes sense only beside others says so: "used, with `{"stream": true}`: ...".
Fields inside an object are written with dots. In multipart forms a string `"@name.wav"` is a file with
one second of sound, and the items of a list are sent one by one.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.server.schema import Body
from cadence.server.schema_chat import ChatBody
from cadence.server.schema_listen import TranscriptionForm, TranslationForm
from cadence.server.schema_speech import SpeechBody
from cadence.server.schema_tokens import DetokenizeBody, TokenizeBody
from cadence.server.schema_voices import ConsentForm, VoiceForm

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
TABLE = re.compile(r"^<!-- fields: (\w+ \S+) -->\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| `+ ?(.+?) ?`+ \| (.+) \|$")
COMPANIONS = re.compile(r"with `(\{.*?\})`(?=[:.]|$)")
SOUND = encode_wav(np.sin(np.arange(16_000) / 20).astype(np.float32), 16_000)


def fields_of(*bodies: type[Body]) -> frozenset[str]:
    """Every field these bodies know, be it only to refuse it."""
    return frozenset(name for body in bodies for name in (*body.model_fields, *body.unsupported))


@dataclass(frozen=True)
class Endpoint:
    """How to ask an endpoint for the least, and which fields it knows."""

    minimal: Mapping[str, Any]
    fields: frozenset[str]
    multipart: bool = False


FILE = {"file": "@hello.wav"}

# One entry per table of the page.
ENDPOINTS = {
    "POST /v1/audio/speech/batch": Endpoint(
        {"items": [{"input": "Hello."}]}, frozenset({"items", "input", "stream", "stream_format"})
    ),
    "POST /v1/audio/speech": Endpoint({"input": "Hello."}, fields_of(SpeechBody)),
    "POST /v1/audio/voices": Endpoint(
        {"name": "Anna", "consent": "a note", "audio_sample": "@anna.wav"},
        fields_of(VoiceForm) | {"audio_sample"},
        multipart=True,
    ),
    "POST /v1/audio/voice_consents": Endpoint(
        {"name": "Anna agrees", "language": "en", "recording": "@yes.wav"},
        fields_of(ConsentForm) | {"recording"},
        multipart=True,
    ),
    "POST /v1/chat/completions": Endpoint(
        {"messages": [{"role": "user", "content": "Hello."}]}, fields_of(ChatBody)
    ),
    "POST /tokenize": Endpoint({"prompt": "Hello."}, fields_of(TokenizeBody)),
    "POST /detokenize": Endpoint({"tokens": []}, fields_of(DetokenizeBody)),
    "POST /v1/audio/transcriptions": Endpoint(
        FILE, fields_of(TranscriptionForm) | FILE.keys(), multipart=True
    ),
    "POST /v1/audio/translations": Endpoint(FILE, fields_of(TranslationForm) | FILE.keys(), multipart=True),
}


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    endpoint: str
    field: str
    example: str
    treatment: str

    @property
    def refusal(self) -> str | None:
        """The code of the error that this field is refused with."""
        found = re.match(r"refused: (\w+)", self.treatment)
        return found and found[1]

    def body(self) -> dict[str, Any]:
        """The minimal request with this field (and those it needs) in it."""
        body = copy.deepcopy(dict(ENDPOINTS[self.endpoint].minimal))
        companions = COMPANIONS.search(self.treatment)
        body |= json.loads(companions[1]) if companions else {}
        if not ENDPOINTS[self.endpoint].multipart:
            body = _with_sound(body)
        *path, last = self.field.split(".")
        inner = body
        for name in path:
            inner = inner.setdefault(name, {})
        value = json.loads(self.example)
        inner[last] = value if ENDPOINTS[self.endpoint].multipart else _with_sound(value)
        return body


def _with_sound(value: Any) -> Any:
    """JSON with the recordings that its strings stand for."""
    if isinstance(value, dict):
        return {name: _with_sound(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_sound(item) for item in value]
    is_file = isinstance(value, str) and re.fullmatch(r"@\w+\.wav", value)
    return base64.b64encode(SOUND).decode() if is_file else value


def _rows(endpoint: str, table: str) -> list[Row]:
    rows = []
    for line in table.splitlines()[2:]:
        cells = ROW.match(line)
        assert cells, f"{endpoint}: this row is not `field` | `example` | treatment: {line}"
        # GitHub ends a cell at a bar, so one in an example is written \|
        rows.append(Row(endpoint, cells[1], cells[2].replace("\\|", "|"), cells[3]))
    return rows


TABLES = {name: _rows(name, table) for name, table in TABLE.findall(PAGE.read_text(encoding="utf-8"))}
ROWS = [
    pytest.param(row, id=f"{name}-{row.field}-{number}")
    for name, rows in TABLES.items()
    for number, row in enumerate(rows)
]


async def send(client: httpx.AsyncClient, row: Row) -> httpx.Response:
    """The request of a row."""
    method, path = row.endpoint.split()
    if not ENDPOINTS[row.endpoint].multipart:
        return await client.request(method, path, json=row.body())
    parts = [
        (name, _part(item))
        for name, value in row.body().items()
        for item in (value if isinstance(value, list) else [value])
    ]
    return await client.request(method, path, files=parts)


def _part(value: Any) -> tuple[Any, ...]:
    """A form field as httpx takes it: (file name, content[, type])."""
    if isinstance(value, str) and value.startswith("@"):
        return (value[1:], SOUND, "audio/wav")
    return (None, value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
async def client(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = ServerConfig(voices_dir=str(tmp_path / "voices"))
    transport = httpx.ASGITransport(create_app(engine, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("row", ROWS)
async def test_a_field_is_treated_as_documented(client: httpx.AsyncClient, row: Row) -> None:
    answer = await send(client, row)
    if row.refusal is None:
        assert row.treatment.startswith("used"), "a treatment is 'used' or 'refused: CODE'"
        assert answer.status_code // 100 == 2, answer.text
        return
    assert answer.status_code // 100 == 4, "this field is accepted"
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (row.refusal, row.field)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_field_has_a_row(endpoint: str) -> None:
    known = ENDPOINTS[endpoint].fields
    listed = {row.field.split(".")[0] for row in TABLES[endpoint]}
    assert listed == known, f"not in the table: {known - listed}; not in the schema: {listed - known}"


def test_every_table_is_walked() -> None:
    assert TABLES.keys() == ENDPOINTS.keys()
