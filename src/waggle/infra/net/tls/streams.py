# SPDX-License-Identifier: Apache-2.0
"""The pairs of streams of one ended HTTP/2 connection, and the heads that are sent on them.

`http2` decides; this keeps which stream of the guest belongs to which stream of the server, and
ends both. Not aware of placeholders beyond what the `Admission` says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived
from h2.exceptions import ProtocolError
from hpack import NeverIndexedHeaderTuple

from waggle.domain.secrets.substitution import Finder, Header
from waggle.infra.net.guest_request import Refusal
from waggle.infra.net.tls.admission import Admission, Admitted, refused
from waggle.infra.net.tls.flows import Flow
from waggle.infra.net.tls.frames import MAX_FRAME
from waggle.infra.net.tls.side import Side

_REQUIRED = frozenset((b":method", b":scheme", b":authority", b":path"))


def request_of(
    headers: Sequence[Header], admission: Admission
) -> tuple[bytes, bytes, list[Header]]:
    """Return method, path and the other headers of a request. Raises Refusal."""
    pseudo = {name: value for name, value in headers if name[:1] == b":"}
    method = pseudo.get(b":method", b"")
    if b":protocol" in pseudo or method == b"CONNECT":
        text = "CONNECT is not offered inside of a connection; open websockets over HTTP/1.1."
        raise admission.note(refused(501, "connect-inside", admission.host, text))
    named = [value for name, value in headers if name in (b":authority", b"host")]
    if not named or not all(admission.is_here(value) for value in named):
        raise admission.elsewhere()
    if pseudo.get(b":scheme") != b"https" or pseudo.keys() - _REQUIRED:
        text = "its pseudo-headers are not those of a request over https."
        raise admission.note(refused(400, "request-target", admission.host, text))
    kept = [(name, value) for name, value in headers if name[:1] != b":" and name != b"host"]
    return method, admission.path_of(pseudo.get(b":path", b"")), kept


@dataclass(slots=True, eq=False)
class Pair:
    """A stream of the guest, and the stream of the server that belongs to it."""

    client_id: int
    up: Flow
    down: Flow
    finder: Finder
    upstream_id: int | None = None
    method: bytes = b""
    sent: Admitted | None = None
    answered: bool = False
    is_stopped: bool = False
    """Whether nothing is passed on any more; only a refusal may follow."""
    task: asyncio.Task[None] | None = None


class Pairs:
    """All pairs that are not finished."""

    def __init__(self, client: Side, upstream: Side) -> None:
        self._client = client
        self._upstream = upstream
        self.by_client: dict[int, Pair] = {}
        self.by_upstream: dict[int, Pair] = {}

    def __bool__(self) -> bool:
        return bool(self.by_client)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks of all pairs."""
        return [pair.task for pair in self.by_client.values() if pair.task is not None]

    def add(self, client_id: int, finder: Finder) -> Pair:
        """Begin a pair for a request of the guest."""
        up = Flow(self._client, client_id, self._upstream)
        down = Flow(self._upstream, 0, self._client)  # the server's stream has no number yet
        pair = self.by_client[client_id] = Pair(client_id, up, down, finder)
        return pair

    def send_request(self, pair: Pair, authority: bytes, sent: Admitted) -> None:
        """Open the server's stream. Raises h2's ProtocolError."""
        http = self._upstream.http
        stream = http.get_next_available_stream_id()
        ended = pair.up.ended and pair.up.is_empty and pair.up.trailers is None
        head = [
            (b":method", pair.method),
            (b":scheme", b"https"),
            (b":authority", authority),
            NeverIndexedHeaderTuple(b":path", sent.target),
            # Compression must not tell how a value compares with others' headers.
            *(NeverIndexedHeaderTuple(name.lower(), value) for name, value in sent.headers),
        ]
        http.send_headers(stream, head, end_stream=ended)
        pair.upstream_id = pair.down.source_id = stream
        pair.up.open(stream)
        pair.up.is_done = ended
        self.by_upstream[stream] = pair

    def stop(self, pair: Pair) -> None:
        """Pass nothing on any more; the guest's stream stays for a refusal. Idempotent."""
        if pair.is_stopped:
            return
        pair.is_stopped = True
        pair.up.discard()
        pair.down.discard()
        if pair.upstream_id is not None:
            self.by_upstream.pop(pair.upstream_id, None)
            _reset(self._upstream, pair.upstream_id, ErrorCodes.CANCEL)
        if pair.task is not None and pair.task is not asyncio.current_task():
            pair.task.cancel()

    def drop(self, pair: Pair, client_code: int | None = None) -> None:
        """Forget a pair; with a code, reset the guest's stream. Idempotent."""
        self.stop(pair)
        self.by_client.pop(pair.client_id, None)
        if client_code is not None:
            _reset(self._client, pair.client_id, client_code)

    def forget_if_done(self, pair: Pair) -> None:
        """Forget a pair whose streams have both ended in both directions."""
        if pair.up.is_done and pair.down.is_done and not pair.is_stopped:
            self.by_client.pop(pair.client_id, None)
            self.by_upstream.pop(pair.upstream_id or 0, None)

    def give_back(self) -> None:
        """Reset what a leaving server will not serve; the guest may ask again elsewhere."""
        for stream, pair in list(self.by_upstream.items()):
            if not self._upstream.still_serves(stream):
                self.drop(pair, ErrorCodes.REFUSED_STREAM)


def _reset(side: Side, stream: int, code: int) -> None:
    with contextlib.suppress(ProtocolError):
        side.http.reset_stream(stream, code)


def send_refusal(client: Side, pair: Pair, refusal: Refusal) -> None:
    """Answer a request of the guest with a refusal, or cut an answer that has begun."""
    stream, http = pair.client_id, client.http
    with contextlib.suppress(ProtocolError):
        if pair.answered:
            http.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
            return
        name, code = refusal.header
        head = [
            (b":status", str(refusal.status).encode("ascii")),
            (name.lower(), code),
            (b"content-type", b"text/plain; charset=utf-8"),
        ]
        body = f"{refusal.text}\n".encode("ascii", "replace")
        room = min(http.remote_settings.initial_window_size, MAX_FRAME)
        fits = pair.method != b"HEAD" and len(body) <= room
        http.send_headers(stream, head, end_stream=not fits)
        if fits and len(body) <= http.local_flow_control_window(stream):
            http.send_data(stream, body, end_stream=True)
        elif fits:
            http.end_stream(stream)
        if not pair.up.ended:
            http.reset_stream(stream, ErrorCodes.NO_ERROR)


async def refuse_all(client: Side, refusal: Refusal, seconds: float) -> None:
    """Answer every request of a connection with a refusal, for at most this long.

    Raises PeerGone.
    """
    client.start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await client.write_rest()
            while (events := await client.receive()) is not None:
                for event in events:
                    _refuse_one(client, event, refusal)
                await client.write_rest()


def _refuse_one(client: Side, event: Event, refusal: Refusal) -> None:
    if not isinstance(event, RequestReceived):
        return
    stream = event.stream_id or 0
    flow = Flow(client, stream, client)
    flow.ended = event.stream_ended is not None
    pair = Pair(stream, flow, flow, Finder(()))
    pair.method = dict(event.headers or ()).get(b":method", b"")
    send_refusal(client, pair, refusal)
    client.leave(stream)
