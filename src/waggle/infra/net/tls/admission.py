# SPDX-License-Identifier: Apache-2.0
"""One request inside ended TLS: may it pass, with which values, and what is masked in its answer.

`http1` and `http2` ask the `Admission` of their connection before they send anything to the server,
and show it the answer's head. Refusals carry the next step for an agent. It sees heads only, and
owns no stream. Which connections may be made at all is judged before, by `infra.net.gate`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import zstandard

from waggle.domain.network.judging import Seen
from waggle.domain.secrets import Granted, ValueUnavailable
from waggle.domain.secrets.masking import Masker, Masks, Piece
from waggle.domain.secrets.substitution import Finder, Header, Misplaced, examine, misplaced
from waggle.infra.net import CHUNK, Begin
from waggle.infra.net.guest_request import (
    BadTarget,
    EgressLimits,
    Refusal,
    Target,
    is_unclear,
    parse_authority,
)

HTTPS_PORT: Final = 443
MAX_HEAD: Final = 64 * 1024
"""The most bytes of a head with values in it."""
_PATH = re.compile(rb"/[!-~]*")
_ABSOLUTE = re.compile(rb"(?i:https)://([^/?#]*)([!-~]*)")
_ASKS_CODED: Final = frozenset(
    (b"accept-encoding", b"grpc-accept-encoding", b"connect-accept-encoding", b"a-im")
)
_CODED_WITHIN: Final = frozenset((b"grpc-encoding", b"connect-content-encoding"))
"""What says that the messages within a body are compressed, each on its own."""
_NO_BODY: Final = frozenset({204, 205, 304})

Judge = Callable[[Seen], Refusal | None]
"""Judges a request, whose path with its query has no value in it yet."""
OnDenial = Callable[[str, str], None]
"""Gets the code and the reason of a request or connection that is refused."""


class Terms(NamedTuple):
    """What a connection takes over from the proxy that it is part of."""

    limits: EgressLimits
    denied: Callable[[Target, str, str], None]
    """Gets the target, and code and reason of what was refused."""
    pace: Callable[[], float]
    """Returns how many seconds the next refusal has to wait."""
    begin: Begin | None = None
    """Reads the first bytes of a tunnel whose TLS is not ended."""
    judge: Judge = lambda _seen: None
    may_be_unseen: Callable[[], bool] = lambda: True
    """Whether a tunnel may pass on what is not judged by `judge`."""


class Decoder(Protocol):
    """A content coding that is undone."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what the piece decodes to, at most 64 KiB at once. Raises ValueError if damaged."""
        ...


@dataclass(slots=True)
class Admitted:
    """A request that may pass: what to send, and what its answer must not hold."""

    target: bytes
    headers: list[Header]
    secret_forms: list[bytes]
    used: frozenset[str]


@dataclass(slots=True)
class Answer:
    """An answer's headers for the guest, and how its body becomes the guest's."""

    headers: list[Header]
    masker: Masker
    decoder: Decoder | None

    def body(self, piece: bytes) -> Iterator[Piece]:
        """Yield what to pass on for a piece of the body. Raises ValueError if it is damaged."""
        for clear in (piece,) if self.decoder is None else self.decoder.feed(piece):
            if data := self.masker.feed(clear):
                yield data


def refused(status: int, code: str, host: str, text: str) -> Refusal:
    """Return a refusal that counts as a denial and is recorded."""
    return Refusal(status, code, f"waggle: {host}: {text}", reason=text)


class Admission:
    """The judgement of all requests of one connection, whose target is known and verified."""

    def __init__(
        self,
        target: Target,
        granted: Granted,
        judge: Judge,
        on_denial: OnDenial,
        on_use: Callable[[str], None],
    ) -> None:
        """`on_denial` gets what is refused, `on_use` the name of a secret that is sent."""
        self.host = target.host.removesuffix(".")
        self._port = target.port
        self._granted = granted
        self._judge = judge
        self.on_denial = on_denial
        self._on_use = on_use

    @property
    def authority(self) -> bytes:
        """The Host header or :authority of requests to the server."""
        port = "" if self._port == HTTPS_PORT else f":{self._port}"
        return f"{self.host}{port}".encode("ascii")

    def note(self, refusal: Refusal) -> Refusal:
        """Record a refusal if it is a denial; return it."""
        if refusal.reason:
            self.on_denial(refusal.code, refusal.reason)
        return refusal

    def is_here(self, authority: bytes) -> bool:
        """Whether a Host header or :authority names the server of this connection."""
        try:
            named = parse_authority(authority.decode("latin-1"), HTTPS_PORT)
        except BadTarget:
            return False
        return named.host.removesuffix(".") == self.host and named.port == self._port

    def path_of(self, target: bytes) -> bytes:
        """Return the path of a request target. Raises Refusal if it is for elsewhere."""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            if not self.is_here(absolute[1]):
                raise self.elsewhere()
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if target != b"*" and not _PATH.fullmatch(target):
            raise self.note(refused(400, "request-target", self.host, "no valid request target."))
        return target

    def elsewhere(self) -> Refusal:
        """Return the refusal of a request for another host than the connection's."""
        text = "the request names another host than its connection; open a connection to that."
        return self.note(refused(421, "other-host", self.host, text))

    async def admit(self, method: bytes, path: bytes, headers: Sequence[Header]) -> Admitted:
        """Return the request to send. Raises Refusal. Bounded by the vault's time.

        `headers` have no Host and none that are for one connection only.
        """
        if method == b"CONNECT":
            text = "CONNECT is for the proxy, not inside of a connection."
            raise self.note(refused(405, "connect-inside", self.host, text))
        words = method.decode("ascii", "replace"), path.decode("ascii", "replace")
        refusal = self._judge(Seen(*words, is_unclear(headers)))
        if refusal is not None:
            raise self.note(refusal)
        try:
            plan = examine(self._granted, self.host, path, headers)
        except Misplaced as error:
            raise self.misused(error) from None
        try:
            values = {name: await self._granted.vault.value(name) for name in sorted(plan.needed)}
        except ValueUnavailable as error:
            text = f"waggle: {self.host}: {error}; nothing was sent. Tell the operator."
            raise Refusal(502, "secret-unavailable", text) from None
        target, filled, forms = plan.filled(self._granted, values)
        if len(target) + sum(len(name) + len(value) for name, value in filled) > MAX_HEAD:
            raise Refusal(431, "too-large", f"waggle: {self.host}: too large a head.")
        for name in values:
            self._on_use(name)
        kept = [header for header in filled if header[0].lower() not in _ASKS_CODED]
        kept.append((b"accept-encoding", b"identity"))  # what is compressed cannot be masked
        return Admitted(target, kept, forms, frozenset(values))

    def misused(self, error: Misplaced) -> Refusal:
        """Return the recorded refusal of a placeholder."""
        return self.note(refused(403, error.code, self.host, error.text))

    def finder(self) -> Finder:
        """Return a search of one body or of trailers."""
        return Finder(self._granted.placeholders)

    def in_body(self, placeholder: bytes) -> Refusal:
        """Return the refusal of a placeholder in a body."""
        name = self._granted.name_of(placeholder) or ""
        return self.misused(misplaced(self._granted.secret(name), name, "the body"))

    def answer(
        self, status: int, headers: Sequence[Header], sent: Admitted, method: bytes
    ) -> Answer:
        """Return how the answer is passed on. Raises Refusal for a coding that hides values."""
        masks = self.masks(sent)
        # Another way to the server would lead past this proxy.
        headers = [header for header in headers if header[0].lower() != b"alt-svc"]
        coding = b",".join(v for n, v in headers if n.lower() == b"content-encoding")
        coding = coding.strip().lower()
        decoder = None
        within = {v.strip().lower() for n, v in headers if n.lower() in _CODED_WITHIN}
        if not within <= {b"", b"identity"}:
            raise self._hidden()
        if coding not in (b"", b"identity"):
            drop = {b"content-encoding", b"content-length"}
            headers = [header for header in headers if header[0].lower() not in drop]
            if method != b"HEAD" and status not in _NO_BODY:
                decoder = self._decoder(coding)
        return Answer(self.masked(headers, masks), Masker(masks), decoder)

    def masks(self, sent: Admitted) -> Masks:
        """Return the values that may not come back: of all secrets that this host may have got."""
        names = {secret.name for secret in self._granted.covering(self.host)}
        names = (names or {*self._granted.names}) | self._granted.lost | sent.used
        known = {value for name in names for value in self._granted.vault.known(name)}
        return Masks(known, sent.secret_forms)

    @staticmethod
    def masked(headers: Sequence[Header], masks: Masks) -> list[Header]:
        """Return headers or trailers without values."""
        return [(masks.masked(name), masks.masked(value)) for name, value in headers]

    def _decoder(self, coding: bytes) -> Decoder:
        if coding in (b"gzip", b"x-gzip"):
            return _Zlib(31)
        if coding == b"deflate":
            return _Zlib(None)
        if coding == b"zstd":
            return _Zstd()
        raise self._hidden()

    def _hidden(self) -> Refusal:
        text = (
            f"waggle: {self.host} answered in a coding that waggle cannot look into for secrets, "
            "although it was asked for none."
        )
        return Refusal(502, "content-encoding", text)


class _Zlib:
    """gzip with any number of members, or deflate with or without zlib's header."""

    def __init__(self, wbits: int | None) -> None:
        self._wbits = wbits
        self._member = None if wbits is None else zlib.decompressobj(wbits)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._member is None:
                self._wbits = 15 if piece[0] & 15 == 8 else -15
                self._member = zlib.decompressobj(self._wbits)
            elif self._member.eof:
                if self._wbits != 31:
                    return
                self._member = zlib.decompressobj(self._wbits)
            try:
                data = self._member.decompress(piece, CHUNK)
            except zlib.error as error:
                raise ValueError("damaged") from error
            if data:
                yield data
            piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        for at in range(0, len(piece), 64):  # a byte may become 32 KiB
            try:
                data = self._frame.decompress(piece[at : at + 64])
            except zstandard.ZstdError as error:
                raise ValueError("damaged") from error
            yield from (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
