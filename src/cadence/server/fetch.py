"""Reading what a request's URL points to: over the network, from a permitted folder, or from the URL itself.

A server that fetches for strangers must not become their way into its own network. A host is resolved
once and all its addresses must be public; the connection goes to the address that was checked, and each
redirect starts over.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from cadence.config import ServerConfig
from cadence.errors import Forbidden, InvalidRequest, PayloadTooLarge
from cadence.server.addresses import check_url, pick_address

__all__ = ["decode_base64", "read_url"]

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


async def read_url(url: str, config: ServerConfig, param: str) -> bytes:
    """The bytes behind a `data:`, `http(s):` or `file:` URL.

    Args:
        param: the request field to name in errors.

    Raises:
        InvalidRequest: malformed, or cannot be fetched.
        Forbidden: this server may not read it.
        PayloadTooLarge: more bytes than allowed.
    """
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        head, comma, payload = url.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidRequest("A data URL must be data:TYPE;base64,DATA.", param=param, code="invalid_url")
        return await asyncio.to_thread(decode_base64, payload, param)
    if scheme == "file":
        return await asyncio.to_thread(_read_file, url, config, param)
    if not config.allow_url_fetch:
        raise Forbidden("This server does not fetch URLs; send the audio in the request.", param=param)
    try:
        async with asyncio.timeout(config.url_fetch_s):
            return await _fetch(url, config, param)
    except TimeoutError:
        raise _failed(f"The URL did not answer within {config.url_fetch_s:g} seconds.", param) from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        raise _failed("The URL could not be fetched.", param) from None


def decode_base64(text: str, param: str) -> bytes:
    """Bytes of strict base64; raises InvalidRequest."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The audio is not valid base64.", param=param, code="invalid_base64") from None


async def _fetch(text: str, config: ServerConfig, param: str) -> bytes:
    """Follow a few redirects, checking each anew."""
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as client:
        for _ in range(MAX_REDIRECTS + 1):
            url = check_url(text, config.allowed_media_domains, param)
            address = await pick_address(url, listed=bool(config.allowed_media_domains), param=param)
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), "Accept": "*/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            response = await client.send(request, stream=True)
            try:
                if response.status_code not in _REDIRECTS:
                    return await _read_response(response, config.url_fetch_bytes, param)
                text = str(url.join(response.headers.get("location", "")))
            finally:
                await response.aclose()
    raise _failed(f"The URL redirects more than {MAX_REDIRECTS} times.", param)


async def _read_response(response: httpx.Response, max_bytes: int, param: str) -> bytes:
    if response.status_code != 200:
        raise _failed(f"The URL answered with status {response.status_code}.", param)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes, param)
    return bytes(body)


def _read_file(url: str, config: ServerConfig, param: str) -> bytes:
    """A regular file below the permitted folder. All refusals read alike, so none tells what exists."""
    refused = Forbidden("This server may not read that file.", param=param)
    if config.allowed_local_media_path is None:
        raise refused
    try:
        parts = urlsplit(url)
        path = Path(unquote(parts.path, errors="strict")).resolve(strict=True)
        root = Path(config.allowed_local_media_path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise refused from None
    if parts.netloc not in ("", "localhost") or not path.is_relative_to(root):
        raise refused
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        raise refused from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise refused
    with open(handle, "rb") as file:
        data = file.read(config.url_fetch_bytes + 1)
    if len(data) > config.url_fetch_bytes:
        raise _too_large(config.url_fetch_bytes, param)
    return data


def _failed(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="url_fetch_failed")


def _too_large(max_bytes: int, param: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"The URL holds more than the {max_bytes} bytes allowed.", param=param)
