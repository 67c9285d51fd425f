# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 inside ended TLS: streams of the guest, each with a stream to the server.

`ended` runs it when both sides agreed on HTTP/2. Bodies, trailers and resets go both ways (gRPC);
pushes, priorities and the upgrade to websockets (RFC 8441) are not offered. A refused request ends
its stream only. A server that leaves (GOAWAY) finishes its streams, and the guest learns that it
has to connect anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from waggle.domain.secrets.substitution import Header
from waggle.infra.net import PeerGone, guest_request, idle_limit
from waggle.infra.net.guest_request import EgressLimits, Refusal
from waggle.infra.net.tls.admission import Admission, Admitted
from waggle.infra.net.tls.flows import Flow
from waggle.infra.net.tls.side import MAX_STREAMS, Side
from waggle.infra.net.tls.streams import Pair, Pairs, request_of, send_refusal
from waggle.tasks import end

_STREAMS_CHANGED = (WindowUpdated, RemoteSettingsChanged)


class Http2:
    """The streams of one connection. The caller ends the streams below in every case."""

    def __init__(
        self,
        client: Side,
        upstream: Side,
        admission: Admission,
        limits: EgressLimits,
        pace: Callable[[], float],
    ) -> None:
        """`pace` returns how many seconds the next refusal has to wait."""
        self._client = client
        self._upstream = upstream
        self._admission = admission
        self._limits = limits
        self._pace = pace
        self._pairs = Pairs(client, upstream)
        self._touch: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Serve streams until a side ends the connection. Raises PeerGone, Refusal, TimeoutError.

        A Refusal comes only before the guest was answered anything.
        """
        await self._greet()
        client, upstream = self._client, self._upstream
        tasks: list[asyncio.Task[None]] = []
        try:
            async with idle_limit(self._limits.idle_seconds) as self._touch:
                work = (
                    self._read(client, self._from_client),
                    self._read(upstream, self._from_upstream),
                    client.write_out(lambda: self._pump_into(client), self._touch),
                    upstream.write_out(lambda: self._pump_into(upstream), self._touch),
                )
                tasks += [asyncio.ensure_future(part) for part in work]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                failure = guest_request.upstream_broken(self._admission.host)
        except TimeoutError:
            failure = guest_request.too_slow(self._admission.host, "the answer")
        except PeerGone:
            failure = guest_request.upstream_broken(self._admission.host)
        finally:
            await end(*tasks, *self._pairs.tasks())
        await self._close(failure)

    async def _greet(self) -> None:
        """Learn how many streams the server takes before the guest is offered any."""
        self._upstream.start()
        try:
            async with asyncio.timeout(self._limits.dial.connect):
                await self._upstream.write_rest()
                while (events := await self._upstream.receive()) is not None:
                    if any(isinstance(event, RemoteSettingsChanged) for event in events):
                        break
                else:
                    raise PeerGone
        except PeerGone:
            raise guest_request.upstream_broken(self._admission.host) from None
        except TimeoutError:
            raise guest_request.too_slow(self._admission.host, "the greeting") from None
        allowed = self._upstream.http.remote_settings.max_concurrent_streams
        self._client.start(min(MAX_STREAMS, allowed))

    async def _read(self, side: Side, handle: Callable[[Event], None]) -> None:
        while (events := await side.receive()) is not None:
            self._touch()
            for event in events:
                with contextlib.suppress(ProtocolError):  # its stream was reset meanwhile
                    handle(event)
            if self._upstream.is_leaving:
                self._pairs.give_back()
            self._client.flush()
            self._upstream.flush()
            await self._client.room()
            await self._upstream.room()
            await asyncio.sleep(0)
            if self._upstream.is_leaving and not self._pairs:
                # Only now: some clients give up streams under way when they learn of it.
                self._client.leave(self._client.http.highest_inbound_stream_id)
                return

    def _from_client(self, event: Event) -> None:
        if isinstance(event, _STREAMS_CHANGED):
            self._pump_into(self._client)
            return
        stream = getattr(event, "stream_id", None) or 0
        if isinstance(event, RequestReceived):
            pair = self._pairs.add(stream, self._admission.finder())
            pair.task = asyncio.ensure_future(self._open(pair, list(event.headers or ())))
            return
        pair = self._pairs.by_client.get(stream)
        if isinstance(event, DataReceived):
            self._request_body(pair, event)
        elif pair is None:
            return
        elif isinstance(event, TrailersReceived):
            headers = list(event.headers or ())
            self._inspect(pair, b"\n".join(part for header in headers for part in header))
            pair.up.end(headers)
        elif isinstance(event, StreamEnded):
            pair.up.end()
            self._pump(pair, pair.up)
        elif isinstance(event, StreamReset):
            self._pairs.drop(pair)

    def _request_body(self, pair: Pair | None, event: DataReceived) -> None:
        data = event.data or b""
        if pair is not None:
            self._inspect(pair, data)
        self._take(self._client, pair, None if pair is None else pair.up, event)

    def _inspect(self, pair: Pair, data: bytes) -> None:
        """Refuse a request whose body or trailers have a placeholder."""
        if not pair.is_stopped and (placeholder := pair.finder.feed(data)) is not None:
            self._refuse_later(pair, self._admission.in_body(placeholder))

    def _take(self, side: Side, pair: Pair | None, flow: Flow | None, event: DataReceived) -> None:
        """Take data, or give back its window at once if nothing is done with it."""
        size = event.flow_controlled_length or 0
        if pair is None or flow is None or pair.is_stopped:
            side.http.acknowledge_received_data(size, event.stream_id or 0)
        else:
            flow.add(event.data or b"", size)
            self._pump(pair, flow)

    async def _open(self, pair: Pair, headers: Sequence[Header]) -> None:
        """Judge a request, and begin its stream to the server."""
        try:
            pair.method, path, kept = request_of(headers, self._admission)
            pair.sent = await self._admission.admit(pair.method, path, kept)
        except Refusal as error:
            await self._refuse(pair, error)
            return
        http = self._upstream.http
        taken = http.open_outbound_streams >= http.remote_settings.max_concurrent_streams
        if taken or self._upstream.is_leaving:
            self._pairs.drop(pair, ErrorCodes.REFUSED_STREAM)
        else:
            try:
                self._pairs.send_request(pair, self._admission.authority, pair.sent)
            except ProtocolError:
                self._pairs.drop(pair, ErrorCodes.INTERNAL_ERROR)
            self._pump(pair, pair.up)
        self._client.flush()
        self._upstream.flush()

    def _from_upstream(self, event: Event) -> None:
        if isinstance(event, _STREAMS_CHANGED):
            self._pump_into(self._upstream)
            return
        pair = self._pairs.by_upstream.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, DataReceived):
            self._take(self._upstream, pair, None if pair is None else pair.down, event)
        elif pair is None or pair.sent is None:
            return
        elif isinstance(event, InformationalResponseReceived):
            masked = self._admission.masked(
                list(event.headers or ()), self._admission.masks(pair.sent)
            )
            self._client.http.send_headers(pair.client_id, masked)
        elif isinstance(event, ResponseReceived):
            headers = list(event.headers or ())
            self._answer(pair, pair.sent, headers, ended=event.stream_ended is not None)
        elif isinstance(event, TrailersReceived):
            masks = self._admission.masks(pair.sent)
            pair.down.end(self._admission.masked(list(event.headers or ()), masks))
        elif isinstance(event, StreamEnded):
            pair.down.end()
            self._pump(pair, pair.down)
        elif isinstance(event, StreamReset):
            self._pairs.drop(pair, event.error_code or 0)

    def _answer(
        self, pair: Pair, sent: Admitted, headers: Sequence[Header], *, ended: bool
    ) -> None:
        status = dict(headers).get(b":status", b"")
        if not (status.isdigit() and len(status) == 3):
            self._pairs.drop(pair, ErrorCodes.PROTOCOL_ERROR)
            return
        try:
            answer = self._admission.answer(int(status), headers, sent, pair.method)
        except Refusal as error:
            self._refuse_later(pair, error)
            return
        self._client.http.send_headers(pair.client_id, answer.headers, end_stream=ended)
        pair.answered = True
        pair.down.open(pair.client_id, answer.body, answer.masker.finish)
        pair.down.is_done = ended
        self._pairs.forget_if_done(pair)

    def _pump(self, pair: Pair, flow: Flow) -> None:
        try:
            flow.pump()
        except (ProtocolError, ValueError):
            self._pairs.drop(pair, ErrorCodes.INTERNAL_ERROR)
        self._pairs.forget_if_done(pair)

    def _pump_into(self, side: Side) -> None:
        for pair in list(self._pairs.by_client.values()):
            self._pump(pair, pair.up if side is self._upstream else pair.down)
        side.flush()

    def _refuse_later(self, pair: Pair, refusal: Refusal) -> None:
        self._pairs.stop(pair)
        pair.task = asyncio.ensure_future(self._refuse(pair, refusal))

    async def _refuse(self, pair: Pair, refusal: Refusal) -> None:
        self._pairs.stop(pair)
        if (seconds := self._pace()) > 0:
            await asyncio.sleep(seconds)
        send_refusal(self._client, pair, refusal)
        self._pairs.drop(pair)
        self._client.flush()
        self._upstream.flush()

    async def _close(self, failure: Refusal) -> None:
        """Answer what was not answered, as far as the guest takes it. Raises PeerGone."""
        for pair in list(self._pairs.by_client.values()):
            send_refusal(self._client, pair, failure)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds):
                await self._client.write_rest()
