# SPDX-License-Identifier: Apache-2.0
"""Cookies between a browser and a guest, and the cookie that holds the token of a link.

Used by `headers` and `links`. By path, all guests share the server's origin: so their cookies get
another name in the browser, and a guest sees only such ones. By host, cookies stay with their host.
A guest never sees nor sets the link's cookie. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from waggle.domain.exposed_url import LINK

_MARK = b"waggle-e."
"""The beginning of a guest's cookies in the browser, by path."""
_SAFE_LINK = f"__Host-{LINK}"
"""The link's cookie by host over TLS: pages of other ports cannot set it."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_LINKS = frozenset({LINK.encode(), _SAFE_LINK.lower().encode()})
_MOST_LINKS = 4


def link_cookie(token: str, seconds: int, *, path: str | None, secure: bool) -> str:
    """Return the Set-Cookie header for a link that is valid for so long.

    `path` is that of the port, with a slash at its end; None if the port has a host.
    """
    name = _SAFE_LINK if secure and path is None else LINK
    rules = f"Max-Age={seconds}; Path={path or '/'}; HttpOnly; SameSite=Lax"
    return f"{name}={token}; {rules}{'; Secure' if secure else ''}"


def link_tokens(headers: Iterable[bytes]) -> list[str]:
    """Return the tokens in Cookie headers: several, if a page of another port has set one.

    First those that such a page cannot set, however many others it sets.
    """
    found = [pair for pair in _pairs(headers) if pair[0].lower() in _LINKS]
    found.sort(key=lambda pair: pair[0] != _SAFE_LINK.encode())
    return [value.decode("latin-1") for _, value in found[:_MOST_LINKS]]


def to_guest(headers: Iterable[bytes], *, by_path: bool) -> bytes:
    """Return the guest's own cookies of Cookie headers; empty if there are none."""
    kept: list[bytes] = []
    for name, value in _pairs(headers):
        if by_path and name.startswith(_MARK):
            kept.append(name[len(_MARK) :] + b"=" + value)
        elif not by_path and name.lower() not in _LINKS:
            kept.append(name + b"=" + value)
    return b"; ".join(kept)


def _pairs(headers: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    words = (word.strip(b" \t").partition(b"=") for line in headers for word in line.split(b";"))
    return [(name, value) for name, _, value in words if name]


def from_guest(header: bytes, prefix: str | None) -> bytes | None:
    """Return a guest's Set-Cookie header for the browser; None if it may not set that cookie.

    `prefix` is the port's path, without a slash at its end; None if the port has a host. A domain
    is removed, so that a cookie stays with its host.
    """
    first, *rules = header.split(b";")
    name, equals, value = (part.strip(b" \t") for part in first.partition(b"="))
    if not equals or not _NAME.fullmatch(name) or name.lower() in _LINKS:
        return None
    kept = [(name if prefix is None else _MARK + name) + b"=" + value]
    for rule in rules:
        word, _, argument = (part.strip(b" \t") for part in rule.partition(b"="))
        if word.lower() == b"domain":
            continue
        if word.lower() == b"path" and prefix is not None:
            if argument.startswith(b"/"):
                kept.append(b"Path=" + prefix.encode() + argument)
            continue
        kept.append(rule.strip(b" \t"))
    return b"; ".join(kept)
