"""Text to ids and back over HTTP."""

from __future__ import annotations

import httpx


async def test_there_and_back(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Hello, 世界", "return_token_strs": True}
    answer = (await client.post("/tokenize", json=body)).json()
    assert answer["count"] == len(answer["tokens"]) and "".join(answer["token_strs"]) == "Hello, 世界"
    back = await client.post("/detokenize", json={"tokens": [*answer["tokens"], 2**31 - 1]})
    assert back.json() == {"prompt": "Hello, 世界"}


async def test_refused(client: httpx.AsyncClient) -> None:
    for path, body, param in (
        ("/tokenize", {"prompt": "x" * 100_001}, "prompt"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param
