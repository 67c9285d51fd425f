# SPDX-License-Identifier: Apache-2.0
"""Which headers pass between a client and a guest, and how they change. Pure.

Used by `waggle.web.exposed`. Guest and client are hostile. No header of waggle's own access reaches
the guest, and no header of the guest acts on the server's origin, on other ports, or on a proxy in
front. The guest is called as `localhost:PORT`, as servers in development expect, and gets the name
that the client used in `X-Forwarded-Host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from waggle.domain.exposed_url import LINK, Place
from waggle.web.exposed import cookies

Headers = Sequence[tuple[bytes, bytes]]

_HOPS = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_TO_GUEST = _HOPS | frozenset(
    b"host content-length expect cookie origin referer forwarded x-forwarded x-forwarded-by "
    b"x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix x-forwarded-proto "
    b"x-forwarded-scheme x-forwarded-server x-forwarded-ssl x-real-ip x-client-ip "
    b"x-cluster-client-ip true-client-ip cf-connecting-ip x-original-url x-original-host "
    b"x-rewrite-url x-script-name proxy early-data sec-websocket-protocol http2-settings".split()
)
_NOT_FROM_GUEST = _HOPS | frozenset(
    b"set-cookie2 service-worker-allowed clear-site-data strict-transport-security alt-svc "
    b"public-key-pins public-key-pins-report-only expect-ct nel report-to date x-sendfile "
    b"x-lighttpd-send-file x-reproxy-url surrogate-control cdn-cache-control set-login "
    b"sec-websocket-accept sec-websocket-protocol sec-websocket-extensions".split()
)
_ACCELERATED = b"x-accel-"
"""The beginning of headers with which a server behind nginx has it send files."""
SANDBOX = b"sandbox allow-scripts allow-forms allow-popups allow-downloads"
"""The policy of pages by path: an origin of their own, which is not the server's."""
_SHARED = re.compile(r"public|s-maxage\s*=.*", re.IGNORECASE)
_BEARER_OFFER = "waggle.bearer."


@dataclass(frozen=True, slots=True)
class Caller:
    """A request as its client sent it, as far as headers need it.

    `prefix` is the path of the port, without a slash at its end; None if the port has a host.
    """

    place: Place
    authority: str
    scheme: str
    address: str
    prefix: str | None
    is_private: bool = False
    """Whether the client had to show who it is, so that no cache may give its answers to others."""

    @property
    def inside(self) -> str:
        """The authority by which the guest's server knows itself."""
        return f"localhost:{self.place.port}"


def to_guest(
    headers: Headers, caller: Caller, *, authorization: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers of a request to the guest, without those of its body.

    `authorization` says whether the header of that name is for the guest.
    """
    dropped = _NOT_TO_GUEST | _named(headers)
    yield b"host", caller.inside.encode()
    for name, value in headers:
        plain = name.replace(b"_", b"-")
        if plain in dropped or (plain == b"authorization" and not authorization):
            continue
        yield name, value
    if own := cookies.to_guest(_all(headers, b"cookie"), by_path=caller.prefix is not None):
        yield b"cookie", own
    for name in (b"origin", b"referer"):
        for value in _all(headers, name)[:1]:
            if (inside := _inside(value, caller)) is not None:
                yield name, inside
    if protocols := _protocols(_all(headers, b"sec-websocket-protocol")):
        yield b"sec-websocket-protocol", protocols
    yield b"x-forwarded-for", caller.address.encode()
    yield b"x-forwarded-proto", caller.scheme.encode()
    yield b"x-forwarded-host", caller.authority.encode("latin-1")
    if caller.prefix is not None:
        yield b"x-forwarded-prefix", caller.prefix.encode()


def _named(headers: Headers) -> set[bytes]:
    """Return the names that Connection headers declare to be of this hop only."""
    words = b",".join(_all(headers, b"connection")).lower().split(b",")
    return {word.strip() for word in words}


def _all(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for other, value in headers if other == name]


def _inside(value: bytes, caller: Caller) -> bytes | None:
    """Return an Origin or Referer as the guest's server knows it; None to leave it out."""
    if f"{LINK}=".encode() in value:
        return None
    text = value.decode("latin-1")
    own = f"{caller.scheme}://{caller.authority}"
    rest = text[len(own) :]
    if text[: len(own)].lower() != own.lower() or rest[:1] not in ("", "/", "?", "#"):
        return value
    if caller.prefix is not None and rest.startswith(caller.prefix):
        rest = rest[len(caller.prefix) :]
    return f"http://{caller.inside}{rest}".encode("latin-1")


def _protocols(values: Sequence[bytes]) -> bytes:
    """Return the offered subprotocols but for a token."""
    words = (word.strip() for word in b",".join(values).decode("latin-1").split(","))
    kept = [word for word in words if word and not word.startswith(_BEARER_OFFER)]
    return ", ".join(kept).encode("latin-1")


def from_guest(headers: Headers, caller: Caller) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers of a guest's answer for the client, its Content-Length included."""
    dropped = {*_NOT_FROM_GUEST, *_named(headers)}
    if caller.prefix is not None:
        dropped.add(b"www-authenticate")  # the prompt would be the server's own
        yield b"content-security-policy", SANDBOX
    if caller.is_private:
        dropped.add(b"cache-control")
        yield b"cache-control", _private(_all(headers, b"cache-control"))
    for name, value in headers:
        if name in dropped or name.startswith(_ACCELERATED):
            continue
        if name == b"set-cookie":
            if (cookie := cookies.from_guest(value, caller.prefix)) is not None:
                yield name, cookie
        else:
            yield name, location(value, caller) if name == b"location" else value
    if any(value.startswith(b"text/event-stream") for value in _all(headers, b"content-type")):
        yield b"x-accel-buffering", b"no"


def _private(values: Sequence[bytes]) -> bytes:
    words = [word.strip() for word in b",".join(values).decode("latin-1").split(",")]
    kept = [word for word in words if word and not _SHARED.fullmatch(word)]
    if not any(word.lower() in ("private", "no-store") for word in kept):
        kept.insert(0, "private")
    return ", ".join(kept).encode("latin-1")


_URL = re.compile(r"(?:https?:)?//(?P<authority>[^/?#\\]*)(?P<rest>.*)", re.IGNORECASE)


def location(value: bytes, caller: Caller) -> bytes:
    """Return where a redirect of the guest leads for the client: to the same port, if it did.

    A redirect to elsewhere is not changed.
    """
    text = value.decode("latin-1")
    if match := _URL.fullmatch(text):
        if match["authority"].lower() not in _own(caller):
            return value
        text = match["rest"]
        text = text if text.startswith("/") else f"/{text}"
    elif not text.startswith("/"):
        return value
    prefix = caller.prefix
    if prefix is None:
        text = f"/.{text}" if text.startswith("//") else text
    elif text != prefix and not text.startswith((f"{prefix}/", f"{prefix}?", f"{prefix}#")):
        text = prefix + text
    return text.encode("latin-1")


def _own(caller: Caller) -> set[str]:
    """Return the authorities that mean the guest's server."""
    port = caller.place.port
    ends = [f":{port}", *([""] if port in (80, 443) else [])]
    names = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]")  # noqa: S104 - not bound
    return {caller.authority.lower(), *(name + end for name in names for end in ends)}
