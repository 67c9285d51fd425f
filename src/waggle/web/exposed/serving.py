# SPDX-License-Identifier: Apache-2.0
"""Serving an admitted request for an exposed port: counted, ended in time, answered if it fails.

Called by `waggle.web.exposed`, which knows who sent the request. Owners do not take each other's
places; a request ends when its link expires, its token is not valid any more or the server stops.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from starlette.types import Receive, Scope, Send

from waggle.domain.errors import WaggleError
from waggle.domain.exposed_url import ExposedUrls, Place
from waggle.domain.exposure import StreamLost
from waggle.service.environments.ports import PortService
from waggle.tasks import together
from waggle.web.answers import fields
from waggle.web.exposed import links
from waggle.web.exposed.conversation import BadAnswer
from waggle.web.exposed.headers import Caller
from waggle.web.exposed.passing import Asked, Passing, PassingLimits, Refused
from waggle.web.protocol import CONNECTION, GuardedProtocol

_STATUS = {"not_found": 404, "timeout": 504, "guest_lost": 502, "not_running": 409}
_BUSY = 503


@dataclass(frozen=True, slots=True)
class ExposedLimits:
    """The most requests at once, in all and of one owner, whoever sends them.

    A token is checked again every `check_seconds` while a websocket is open.
    """

    requests: int = 400
    owner: int = 128
    check_seconds: float = 30.0
    passing: PassingLimits = field(default_factory=PassingLimits)


@dataclass(frozen=True, slots=True)
class ExposedPorts:
    """What the endpoint uses: the use cases, and the form of URLs."""

    service: PortService
    urls: ExposedUrls = field(default_factory=ExposedUrls)
    limits: ExposedLimits = field(default_factory=ExposedLimits)
    now: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a port. `rest` is the path behind the port's; empty if its slash is missing."""

    place: Place
    rest: bytes
    by_path: bool
    query: bytes


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends a request: as which owner, and until when if by a link.

    `authorization` says whether its header of that name is for the guest. `is_admitted` returns
    whether its token is still valid, if it opens a websocket with one.
    """

    owner: str
    authorization: bool
    expires: int | None = None
    is_private: bool = True
    is_admitted: Callable[[], Awaitable[bool]] | None = None


class Serving:
    """Serves admitted requests. `closing` returns when the server stops."""

    def __init__(self, parts: ExposedPorts, closing: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._closing = closing
        self._served = Counter[str]()

    async def serve(
        self, wanted: Wanted, client: Client, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass the request on, or say why not. What breaks off midway ends the connection."""
        passing = Passing(self._asked(wanted, client, scope), scope, self._parts.limits.passing)
        refusal = Refused(502, "The connection to the environment broke off.")
        try:
            with self._counted(client.owner):
                async with together() as group:
                    group.start_soon(self._until_over, client, group.cancel_scope)
                    place = wanted.place
                    visit = self._parts.service.visit(
                        place.environment_id, place.port, owner=client.owner
                    )
                    async with visit as stream:
                        await passing.run(stream, receive, send)
                    group.cancel_scope.cancel()
                    return
        except Refused as error:
            refusal = error
        except WaggleError as error:
            refusal = _refusal(error, is_owner=client.expires is None)
        except (BadAnswer, StreamLost, TimeoutError):
            pass
        line: GuardedProtocol | None = scope.get(CONNECTION)
        if not passing.begun:
            more = {"Retry-After": "5"} if refusal.status == _BUSY else {}
            if not {b"content-length", b"transfer-encoding"}.isdisjoint(fields(scope)):
                more["Connection"] = "close"  # its body may never come
            await links.text(refusal.status, refusal.text, more)(scope, receive, send)
        elif line is not None:
            line.transport.abort()
            await anyio.lowlevel.checkpoint()  # its end comes first, or uvicorn logs an error

    def _asked(self, wanted: Wanted, client: Client, scope: Scope) -> Asked:
        urls, address = self._parts.urls, scope.get("client")
        caller = Caller(
            wanted.place,
            fields(scope).text(b"host") or "",
            urls.scheme,
            str(address[0]) if address else "",
            urls.prefix(wanted.place) if wanted.by_path else None,
            client.is_private,
        )
        query = b"?" + wanted.query if wanted.query else b""
        return Asked(caller, wanted.rest + query, client.authorization)

    @contextmanager
    def _counted(self, owner: str) -> Generator[None]:
        limits = self._parts.limits
        if self._served[owner] >= limits.owner or self._served.total() >= limits.requests:
            raise Refused(503, "Too many requests to exposed ports are being served.")
        self._served[owner] += 1
        try:
            yield
        finally:
            self._served[owner] -= 1
            if not self._served[owner]:
                del self._served[owner]

    async def _until_over(self, client: Client, over: anyio.CancelScope) -> None:
        """End the request when its link expires, its token is not valid, or the server stops."""
        async with together() as group:
            if client.expires is not None:
                group.start_soon(self._expiry, client.expires, over)
            if client.is_admitted is not None:
                group.start_soon(self._refused, client.is_admitted, over)
            await self._closing()
            over.cancel()

    async def _expiry(self, expires: int, over: anyio.CancelScope) -> None:
        await anyio.sleep(max(0.0, expires - self._parts.now()))
        over.cancel()

    async def _refused(
        self, admitted: Callable[[], Awaitable[bool]], over: anyio.CancelScope
    ) -> None:
        is_admitted = True
        while is_admitted:
            await anyio.sleep(self._parts.limits.check_seconds)
            is_admitted = await admitted()
        over.cancel()


def _refusal(error: WaggleError, *, is_owner: bool) -> Refused:
    """Return the answer to a visit that failed. Strangers learn nothing of the owner's limits."""
    status = _STATUS.get(error.code, 503)
    if not is_owner and status == 503:
        return Refused(status, "The environment cannot be used now; try again later.")
    return Refused(status, f"{error.message} {error.hint}".strip())
