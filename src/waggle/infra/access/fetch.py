# SPDX-License-Identifier: Apache-2.0
"""Fetch a small JSON document from the issuer, within bounds. Used by `jwks` only.

HTTPS, or plain HTTP on loopback. No redirects, no compression, no proxies or credentials of the
environment, at most `MAX_BYTES` and the caller's deadline.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2

MAX_BYTES = 256 * 1024
CONNECT_SECONDS = 3.0


class FetchFailed(Exception):
    """The document cannot be had; the text says why, for the log."""


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from there: HTTPS, or HTTP to this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def fetch_json(url: str, tls: ssl.SSLContext) -> dict[str, Any]:
    """The JSON object at `url`. The caller sets the deadline. Raises FetchFailed."""
    if not is_safe_url(url):
        raise FetchFailed("the URL is neither HTTPS nor on loopback")
    timeouts = httpx2.Timeout(CONNECT_SECONDS)
    try:
        async with (
            httpx2.AsyncClient(verify=tls, timeout=timeouts, trust_env=False) as http,
            http.stream("GET", url, headers=_HEADERS, follow_redirects=False) as answer,
        ):
            if answer.status_code != 200:
                raise FetchFailed(f"status {answer.status_code}")
            return _parse(await _read(answer))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise FetchFailed(type(error).__name__) from error


_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


async def _read(answer: httpx2.Response) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > MAX_BYTES:
            raise FetchFailed(f"over {MAX_BYTES} bytes")
    return bytes(data)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError):
        raise FetchFailed("not JSON") from None
    if not isinstance(document, dict):
        raise FetchFailed("not a JSON object")
    return cast("dict[str, Any]", document)
