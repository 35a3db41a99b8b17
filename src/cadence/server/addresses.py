"""Which hosts a URL from a request may lead to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

import httpx

from cadence.errors import Forbidden, InvalidRequest

__all__ = ["check_url", "is_public", "pick_address"]

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(text: str, listed_hosts: Iterable[str], param: str) -> httpx.URL:
    """Parse a URL and refuse what needs no look-up to refuse.

    Args:
        listed_hosts: hosts that the operator allows; empty = any. Only these may have other ports.
        param: the request field to name in errors.

    Raises:
        InvalidRequest: not an http(s) URL. Forbidden: credentials, a port or a host not allowed.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise InvalidRequest("This is not a URL.", param=param, code="invalid_url") from None
    if url.scheme not in _PORTS or not url.host:
        raise InvalidRequest("Audio URLs must be http, https or data.", param=param, code="invalid_url")
    if url.userinfo:
        raise Forbidden("Audio URLs must not hold credentials.", param=param)
    hosts = {host.lower() for host in listed_hosts}
    if hosts and url.host.lower() not in hosts:
        raise Forbidden("This host is not on the server's list of media domains.", param=param)
    if not hosts and url.port not in (None, _PORTS[url.scheme]):
        raise Forbidden("Audio URLs must use the standard port.", param=param)
    return url


async def pick_address(url: httpx.URL, *, listed: bool, param: str) -> str:
    """Resolve a URL's host once and choose the address to connect to.

    Args:
        listed: the operator named this host, so that it may be private.

    Raises:
        Forbidden: not listed, and one of its addresses is not public.
        InvalidRequest: there is no such host.
    """
    loop = asyncio.get_running_loop()
    port = url.port or _PORTS[url.scheme]
    try:
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InvalidRequest(
            "The URL's host cannot be found.", param=param, code="url_fetch_failed"
        ) from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not (listed or all(map(is_public, addresses))):
        raise Forbidden("The URL's host is not on the public internet.", param=param)
    return addresses[0]


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, for those that translate to IPv4 the inner one."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour or address.teredo:  # tunnels that nobody serves audio through
            return False
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped
        address = inner or address
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
