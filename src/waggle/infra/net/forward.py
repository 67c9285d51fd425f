# SPDX-License-Identifier: Apache-2.0
"""One plain-HTTP request passed on to its server, and the answer passed back.

Called by `egress` once the connection to the server is open. Both messages are taken apart and
framed anew by h11, so what one side calls the end of a message is the end on the other side too.
Every request has a connection of its own to the server. Upgrades and trailers are not passed on.
"""

from __future__ import annotations

import asyncio

import h11

from waggle.infra.net import refusal
from waggle.infra.net.guest_request import Target
from waggle.infra.net.http_peer import HttpPeer, end_to_end, framing
from waggle.infra.net.streams import PeerGone
from waggle.infra.net.tunnel import IdleLimit

HTTP_1_1 = b"1.1"


def request_for(request: h11.Request, target: Target, path: str) -> h11.Request:
    """What the server is asked: Host from the URL, nothing meant for this proxy."""
    kept = end_to_end(request, b"host")
    own = [(b"Host", target.authority().encode("ascii")), (b"Connection", b"close")]
    return h11.Request(
        method=request.method,
        target=path.encode("ascii"),
        headers=own + kept + framing(request),
    )


def answer_from(answer: h11.Response) -> h11.Response:
    """What the guest is told; h11 adds framing where the server gave none."""
    length = [(n, v) for n, v in framing(answer) if n == b"Content-Length"]
    return h11.Response(
        status_code=answer.status_code,
        headers=end_to_end(answer) + length,
        reason=answer.reason,
    )


class Exchange:
    """One request and its answer."""

    def __init__(self, client: HttpPeer, upstream: HttpPeer, host: str) -> None:
        self._client = client
        self._upstream = upstream
        self._host = host

    async def run(self, request: h11.Request, idle_seconds: float) -> None:
        """Pass on `request` and what follows it; return when the answer is complete.

        The body may be incomplete by then: see the state of the client's h11. Raises Refusal if
        the answer has not begun, else PeerGone; the caller ends both streams.
        """
        failure: Exception | None = None
        try:
            async with IdleLimit(idle_seconds) as idle, asyncio.TaskGroup() as group:
                await self._upstream.send(request)
                body = group.create_task(self._pass_body(idle))
                await self._pass_answer(idle)
                body.cancel()  # answered early; what is left of the body goes nowhere
        except* TimeoutError:
            failure = refusal.too_slow(self._host, "the answer")
        except* (PeerGone, h11.ProtocolError):
            failure = refusal.upstream_broken(self._host)
        except* refusal.Refusal as group:
            failure = _first(group)
        if failure is not None:
            begun = self._client.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
            raise PeerGone if begun else failure

    async def _pass_body(self, idle: IdleLimit) -> None:
        while True:
            try:
                event = await self._client.next_event()
            except h11.RemoteProtocolError:
                raise refusal.malformed("its body is not valid") from None
            idle.touch()
            try:
                if isinstance(event, h11.Data):
                    await self._upstream.send(h11.Data(data=event.data))
                else:
                    await self._upstream.send(h11.EndOfMessage())
                    return
            except PeerGone:
                return  # the server hung up early; its answer may be on the way all the same

    async def _pass_answer(self, idle: IdleLimit) -> None:
        while True:
            event = await self._upstream.next_event()
            idle.touch()
            if isinstance(event, h11.InformationalResponse):
                await self._pass_interim(event)
            elif isinstance(event, h11.Response):
                await self._client.send(answer_from(event))
            elif isinstance(event, h11.Data):
                await self._client.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._client.send(h11.EndOfMessage())
                return
            else:
                raise PeerGone

    async def _pass_interim(self, event: h11.InformationalResponse) -> None:
        if self._client.http.their_http_version == HTTP_1_1:
            headers = end_to_end(event)
            await self._client.send(
                h11.InformationalResponse(
                    status_code=event.status_code, headers=headers, reason=event.reason
                )
            )


def _first(group: BaseExceptionGroup[refusal.Refusal]) -> refusal.Refusal:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
