"""Request bodies: read with limits, parsed as strict JSON.

Stricter than Python's parser on purpose: what two readers could understand differently (duplicate
keys, NaN, lone surrogates), what no text may hold (NUL) and what only serves to hurt (deep nesting,
numbers beyond double precision) is refused before any of it reaches a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from cadence.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RequestAborted,
    RequestTimeout,
    UnsupportedMediaType,
)

__all__ = ["MAX_DEPTH", "body_chunks", "check_text", "is_json", "parse_json", "read_body", "read_json"]

MAX_DEPTH = 32
_EXACT = 2.0**53  # beyond, doubles are no longer exact integers
_IN_THREAD_BYTES = 1 << 20  # a larger body is parsed off the event loop
_JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)


async def read_json(request: Request, *, max_bytes: int, stall_s: float) -> Any:
    """Read and parse a JSON body.

    Raises:
        UnsupportedMediaType: another Content-Type, or a Content-Encoding.
        PayloadTooLarge, RequestTimeout, RequestAborted: see `read_body`.
        InvalidRequest: not strict JSON.
    """
    if not is_json(request):
        raise UnsupportedMediaType("The body must be JSON, with Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.")
    body = await read_body(request, max_bytes=max_bytes, stall_s=stall_s)
    if len(body) > _IN_THREAD_BYTES:
        return await asyncio.to_thread(parse_json, body)
    return parse_json(body)


def is_json(request: Request) -> bool:
    """Whether a request says that its body is JSON."""
    return _JSON_TYPE.fullmatch(request.headers.get("content-type", "").strip()) is not None


async def read_body(request: Request, *, max_bytes: int, stall_s: float) -> bytes:
    """Read a body, whether or not its length was declared.

    Raises:
        PayloadTooLarge, RequestTimeout, RequestAborted: see `body_chunks`.
    """
    body = bytearray()
    async with contextlib.aclosing(body_chunks(request, max_bytes=max_bytes, stall_s=stall_s)) as chunks:
        async for chunk in chunks:
            body += chunk
    return bytes(body)


async def body_chunks(request: Request, *, max_bytes: int, stall_s: float) -> AsyncGenerator[bytes, None]:
    """A body as it comes.

    Raises:
        PayloadTooLarge: more than `max_bytes`, declared or sent.
        RequestTimeout: nothing came for `stall_s` seconds.
        RequestAborted: the client left.
    """
    too_large = PayloadTooLarge(f"The body is larger than the {max_bytes} bytes allowed.")
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise too_large
    num_bytes = 0
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(stall_s):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise too_large
            yield chunk
    except TimeoutError:
        raise RequestTimeout(f"Nothing of the body came for {stall_s:g} seconds.") from None
    except ClientDisconnect:
        raise RequestAborted("The client left before its request was complete.") from None
    finally:
        await stream.aclose()


def parse_json(body: bytes) -> Any:
    """Strict JSON (RFC 8259, UTF-8).

    Raises:
        InvalidRequest: malformed, or one of the things this module refuses.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_number,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.", code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: line {error.lineno}, column {error.colno}.", code="invalid_json"
        ) from None
    except RecursionError:
        _too_deep()
    except ValueError:  # an integer with thousands of digits
        raise InvalidRequest("The body holds a number that is out of range.", code="invalid_json") from None
    _check_values(value)
    return value


def _check_values(value: Any) -> None:
    """Walk all values: nesting and strings."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            check_text(item)
            continue
        if not isinstance(item, dict | list):
            continue
        if depth > MAX_DEPTH:
            _too_deep()
        if isinstance(item, dict):
            stack += ((key, depth) for key in item)
            stack += ((child, depth + 1) for child in item.values())
        else:
            stack += ((child, depth + 1) for child in item)


def check_text(text: str) -> None:
    """Refuse what no text may hold; raises InvalidRequest."""
    if "\0" in text:
        raise InvalidRequest("The body holds a NUL character in a text.", code="invalid_text")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The body holds half of a surrogate pair in a text.", code="invalid_text"
        ) from None


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body holds {name}, which is not JSON.", code="invalid_json")


def _number(text: str) -> float | int:
    """A number written with a point or exponent. JSON knows one kind of number: 2.0 is the integer 2."""
    number = float(text)
    if not math.isfinite(number):
        raise InvalidRequest("The body holds a number that is out of range.", code="invalid_json")
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidRequest("The body holds the same key twice in one object.", code="invalid_json")
    return found


def _too_deep() -> NoReturn:
    raise InvalidRequest(f"The body is nested more than {MAX_DEPTH} levels deep.", code="invalid_json")
