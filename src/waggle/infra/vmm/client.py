# SPDX-License-Identifier: Apache-2.0
"""Typed calls to the API of one VMM, over its Unix socket.

The adapters of Firecracker and Cloud Hypervisor use it with the tables of `vmm.firecracker` and
`vmm.cloud_hypervisor`. A guest may have taken its VMM over: whatever that sends has a bound in
size, structure and time, and each call has a connection of its own, so that a late answer to one is
never taken for that to another. Knows no processes, and not how the socket is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any, Final, cast, overload

from pydantic import BaseModel, ValidationError

from waggle.infra.vmm.endpoint import Answered, Asked, Endpoint
from waggle.infra.vmm.errors import clean, lacks, lost, refused, removed
from waggle.infra.vmm.exchange import BadAnswer, Reply, exchange
from waggle.infra.vmm.fields import lacking
from waggle.infra.vmm.version import Version, Vmm
from waggle.structure import Bounds, Structure

Dial = Callable[[], Awaitable[socket.socket]]
"""Returns a connected and verified Unix socket, which the client closes.

Raises OSError, or a WaggleError to show instead of a VmmLost.
"""

_BOUNDS: Final = Bounds(containers=20_000, commas=100_000, depth=32, outside=1024 * 1024)
_PLACE: Final = re.compile(r"\{(\w+)\}")
_ITEM: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


class VmmClient:
    """Calls of one VMM, one after the other, as its API serves them.

    `version` is that of the running program: what it lacks is not sent. `seconds` is how long a
    call may take, with the wait for those before it.
    """

    def __init__(self, dial: Dial, vmm: Vmm, version: Version, *, seconds: float = 10.0) -> None:
        self.vmm = vmm
        self.version = version
        self._dial = dial
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._connection: socket.socket | None = None
        self._is_closed = False

    @overload
    async def call(
        self,
        endpoint: Endpoint[None, Answered],
        request: None = None,
        *,
        item: str = "",
        seconds: float | None = None,
    ) -> Answered: ...

    @overload
    async def call(
        self,
        endpoint: Endpoint[Asked, Answered],
        request: Asked,
        *,
        item: str = "",
        seconds: float | None = None,
    ) -> Answered: ...

    async def call(
        self,
        endpoint: Endpoint[Any, Any],
        request: BaseModel | None = None,
        *,
        item: str = "",
        seconds: float | None = None,
    ) -> BaseModel | None:
        """Send a request and return its answer; `seconds` replaces the client's.

        `item` fills the name in the endpoint's path; a request that has a field of that name fills
        it itself. Cancelling closes the connection: the VMM may carry the call out all the same.
        Nothing is repeated.

        Raises VmmLacks if the running version has not the method or a field of the request, and
        then nothing was sent; VmmRefused if the VMM answered with an error; VmmLost if there was no
        valid answer in time, or the client is closed.
        """
        self._check(endpoint, request)
        path = _filled(endpoint, request, item)
        body = None if request is None else _encoded(request)
        most = self._seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(most), self._turn:
                reply = await self._exchange(endpoint.verb, path, body)
        except TimeoutError:
            cause = f"it took more than {most:g} s"
            raise lost(self.vmm, endpoint.name, cause) from None
        except BadAnswer as error:
            raise lost(self.vmm, endpoint.name, clean(str(error))) from None
        return self._read(endpoint, reply)

    async def aclose(self) -> None:
        """End the call that is under way, with VmmLost, and refuse others. Idempotent."""
        self._is_closed = True
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _check(self, endpoint: Endpoint[Any, Any], request: BaseModel | None) -> None:
        running = self.version
        if endpoint.since > running:
            raise lacks(self.vmm, endpoint.name, running, endpoint.since)
        if endpoint.until is not None and endpoint.until <= running:
            raise removed(self.vmm, endpoint.name, running, endpoint.until)
        if not isinstance(request, endpoint.request):
            raise TypeError(f"{endpoint.name} takes {endpoint.request.__name__}")
        if request is not None:
            for field, since in lacking(request, running):
                raise lacks(self.vmm, endpoint.name, running, since, field)

    async def _exchange(self, verb: str, path: str, body: bytes | None) -> Reply:
        if self._is_closed:
            raise BadAnswer("the client is closed")
        try:
            connection = await self._dial()
        except OSError as error:
            cause = error.strerror or type(error).__name__
            raise BadAnswer(f"its socket cannot be used ({cause})") from error
        with connection:
            connection.setblocking(False)
            self._connection = connection
            try:
                if self._is_closed:
                    raise BadAnswer("the client is closed")
                return await exchange(connection, verb, path, body)
            finally:
                self._connection = None

    def _read(self, endpoint: Endpoint[Any, Any], reply: Reply) -> BaseModel | None:
        status, body = reply
        if status >= 400:
            raise refused(self.vmm, endpoint.name, status, body)
        if status not in {200, 204}:
            raise lost(self.vmm, endpoint.name, "it should be 200 or 204", status)
        if endpoint.answer is NoneType or (endpoint.may_be_empty and not body):
            return None
        kind = cast("type[BaseModel]", endpoint.answer)
        try:
            Structure(_BOUNDS).feed(body)
            return kind.model_validate_json(body, extra="ignore")
        except ValidationError as error:
            cause = _first(error)
        except ValueError as error:
            cause = f"it has {error}"
        raise lost(self.vmm, endpoint.name, f"the answer is not as expected: {cause}", status)


def _filled(endpoint: Endpoint[Any, Any], request: BaseModel | None, item: str) -> str:
    place = _PLACE.search(endpoint.path)
    if place is None:
        if item:
            raise ValueError(f"{endpoint.name} names no item")
        return endpoint.path
    named = item or str(getattr(request, place[1], ""))
    if not _ITEM.fullmatch(named):
        raise ValueError(f"{endpoint.name} needs a {place[1]} of letters, digits and _")
    return endpoint.path.replace(place[0], named)


def _encoded(request: BaseModel) -> bytes:
    return request.model_dump_json(exclude_none=True, by_alias=True).encode()


def _first(error: ValidationError) -> str:
    """Return the first complaint; names in it may be the VMM's."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return clean(f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip(), 200)
