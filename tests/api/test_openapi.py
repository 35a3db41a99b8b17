"""The OpenAPI document: whole, and true."""

from __future__ import annotations

import json
from typing import Any

import httpx

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.server.schema_answers import ChatCompletion, ErrorBody, Health, ModelList

PATHS = {
    "/health",
    "/ping",
    "/tokenize",
    "/detokenize",
    "/livez",
    "/readyz",
    "/version",
    "/load",
    "/metrics",
    "/v1/audio/voice_consents",
    "/v1/audio/voice_consents/{consent_id}",
    "/v1/audio/voices",
    "/v1/audio/voices/{voice_id}",
    "/v1/models",
    "/v1/models/{model_id}",
    "/v1/audio/speech",
    "/v1/audio/speech/batch",
    "/v1/audio/speech/{request_id}",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/chat/completions",
}


def references(item: Any) -> set[str]:
    if isinstance(item, dict):
        own = {item["$ref"]} if isinstance(item.get("$ref"), str) else set()
        return own.union(*map(references, item.values()))
    return set().union(*map(references, item)) if isinstance(item, list) else set()


async def test_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == PATHS
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    for item in document["paths"].values():
        for method, operation in item.items():
            assert "422" not in operation["responses"]
            expected = {"400", "401", "413", "415", "429", "500", "503"} if method == "post" else {"500"}
            assert expected <= set(operation["responses"])
    body = document["components"]["schemas"]["SpeechBody"]
    assert body["additionalProperties"] is False and body["required"] == ["input"]
    assert "default_male" in json.dumps(body["properties"]["voice"])


async def test_document_with_keys() -> None:
    document = create_app(FakeEngine(), ServerConfig(api_keys=("k",))).openapi()
    assert document["security"] == [{"apiKey": []}]


async def test_answers_are_as_described(client: httpx.AsyncClient) -> None:
    ChatCompletion.model_validate_json(
        (
            await client.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "Hi."}], "n": 2, "top_logprobs": 2},
            )
        ).content
    )
    ErrorBody.model_validate_json((await client.post("/v1/audio/speech", json={})).content)
    ModelList.model_validate_json((await client.get("/v1/models")).content)
    Health.model_validate_json((await client.get("/health")).content)
    assert (await client.get("/load")).json() == {"server_load": 0}
    assert (await client.get("/version")).json()["version"]
    assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain; version=0.0.4")
