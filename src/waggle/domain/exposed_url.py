# SPDX-License-Identifier: Apache-2.0
"""The URLs of exposed ports on the server itself: by path, or by a host name of their own.

`/e/ID/PORT/` is on the server's own origin; `PORT-ID.HOST` is an origin for each port, and needs a
setting. `waggle.web` parses them, `waggle.mcp` shows them. Only whole ids are accepted: they cannot
be guessed, and pages of other origins must not reach a port by an environment's name. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from waggle.domain.machine import MAX_PORT

LINK = "waggle_link"
"""The parameter of a URL, and the cookie, that hold the token of a link."""
PATHS = "/e/"
_ID = r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_PORT = r"(?P<port>[1-9][0-9]{0,4})"
_PATH = re.compile(rf"{PATHS}{_ID}/{_PORT}(?P<rest>/.*)?".encode(), re.DOTALL)
_LABEL = re.compile(rf"{_PORT}-{_ID}")


@dataclass(frozen=True, slots=True)
class Place:
    """One port of one environment."""

    environment_id: str
    port: int


@dataclass(frozen=True, slots=True)
class ExposedUrls:
    """The form of the URLs of one server.

    `public` is the server's URL as clients see it, without a slash at its end; empty if clients
    see the address to which they send requests. `host` has the host names of ports below it, with
    an optional port; empty if there are none. `is_private` says that clients need a token or link.
    """

    public: str = ""
    host: str = ""
    is_private: bool = False

    @property
    def is_secure(self) -> bool:
        """Whether clients come over TLS."""
        return self.public.startswith("https://")

    @property
    def scheme(self) -> str:
        """The scheme that clients use."""
        return "https" if self.is_secure else "http"

    def reaches_beyond(self, authority: str) -> bool:
        """Whether a URL is of use beyond the server's machine, or more than its own address."""
        name = re.sub(r":[0-9]*$", "", authority).lower()
        is_local = name in ("localhost", "127.0.0.1", "[::1]")
        return bool(self.public or self.host) or not is_local

    def prefix(self, place: Place) -> str:
        """Return the path of a port as browsers see it, without a slash at its end."""
        return f"{urlsplit(self.public).path}{PATHS}{place.environment_id}/{place.port}"

    def url(self, place: Place, authority: str, token: str = "") -> str:
        """Return the URL of a port, for a client that reached the server as `authority`."""
        parts = urlsplit(self.public)
        authority = parts.netloc or authority
        query = f"?{LINK}={token}" if token else ""
        if not self.host:
            return f"{self.scheme}://{authority}{self.prefix(place)}/{query}"
        name, _, port = self.host.partition(":")
        if not port:
            port = authority.rpartition("]")[2].partition(":")[2]
        label = f"{place.port}-{place.environment_id}"
        return f"{self.scheme}://{label}.{name}{f':{port}' if port else ''}/{query}"

    def in_host(self, authority: str) -> Place | None:
        """Return the port that a Host header names, with any port or none."""
        if not self.host:
            return None
        name, _, port = authority.lower().partition(":")
        below = "." + self.host.partition(":")[0].lower()
        if not name.endswith(below) or not (port.isascii() and (port.isdigit() or not port)):
            return None
        match = _LABEL.fullmatch(name[: -len(below)])
        return None if match is None else _place(match["id"], match["port"])


def in_path(path: bytes) -> tuple[Place, bytes] | None:
    """Return the port that a path names, as it was sent, and the rest of the path.

    The rest begins with a slash, or is empty if the path ends with the port.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    place = _place(match["id"].decode(), match["port"].decode())
    return None if place is None else (place, match["rest"] or b"")


def _place(environment_id: str, port: str) -> Place | None:
    return Place(environment_id, int(port)) if int(port) <= MAX_PORT else None
