# SPDX-License-Identifier: Apache-2.0
"""Sends one request, follows its redirects and classifies its failures. No authentication.

Called by `client`. Redirects are followed here and not by a library: credentials stay with the
origin that they are for, and a registry can send us only to address ranges that it is in itself.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace

import httpcore2
import httpx2

from waggle.domain.errors import ImageCorrupt, ImageUnavailable, SettingsInvalid
from waggle.infra.oci.registry.endpoints import (
    TRANSIENT_STATUS,
    Transient,
    is_listed,
    origin,
    redirected,
    retry_after,
    shown,
)
from waggle.infra.oci.registry.options import (
    ANYWHERE,
    Ambient,
    Reach,
    RegistryOptions,
    reachable_from,
)
from waggle.infra.oci.registry.transport import ALLOWED, Forbidden, GuardedTransport, peer_of

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
BROKEN = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError)
# Headers that are also sent to another origin.
_KEPT_HEADERS = frozenset({"accept", "accept-encoding", "range", "user-agent"})

Body = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` may hold credentials, so they are in no repr."""

    method: str
    url: httpx2.URL
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | Body = field(default=b"", repr=False)
    allowed: frozenset[Reach] = ANYWHERE
    """Where the connection may go; by default anywhere.

    Narrowed for requests that a registry caused, and for registries that the operator did not name.
    """


class Exchange:
    """Sends requests over one transport. Close it with `aclose`."""

    def __init__(self, options: RegistryOptions, ambient: Ambient) -> None:
        """Raises SettingsInvalid when the additional certificates are malformed."""
        self.options = options
        self.ambient = ambient
        try:
            self._transport = GuardedTransport(options.ca_pem, ambient.reach)
        except (ssl.SSLError, ValueError):
            raise SettingsInvalid("WAGGLE_CA_BUNDLE holds no usable certificates.") from None

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._transport.aclose()

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[httpx2.Response]:
        """Give the final response after redirects; its body is not yet read.

        Raises Transient for a broken connection and for an overloaded server, also while the body
        is read in the block; ImageUnavailable for lasting failures.
        """
        with failures(request.url):
            response = await self._follow(request)
            try:
                if response.status_code in TRANSIENT_STATUS:
                    raise self._overloaded(request.url, response)
                yield response
            finally:
                await response.aclose()

    async def document(self, request: Request, limit: int) -> tuple[httpx2.Response, bytes]:
        """Return a response with its whole body. Raises ImageCorrupt over `limit` bytes."""
        async with self.open(request) as response:
            return response, await read_body(response, limit, shown(request.url))

    async def _follow(self, request: Request) -> httpx2.Response:
        step = request
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(step)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or location is None:
                return response
            try:
                if request.method not in {"GET", "HEAD"}:
                    raise ImageUnavailable(f"{shown(request.url)} redirects an upload elsewhere.")
                step = self._step(request, step, location, response)
            finally:
                await response.aclose()
        raise ImageUnavailable(f"{shown(request.url)} redirects more than {MAX_REDIRECTS} times.")

    def _step(
        self, request: Request, step: Request, location: str, response: httpx2.Response
    ) -> Request:
        target = redirected(step.url, location, self.options)
        if origin(target) == origin(step.url):
            return replace(step, url=target)
        headers = {k: v for k, v in step.headers.items() if k.lower() in _KEPT_HEADERS}
        allowed = ANYWHERE
        if not is_listed(target, self.options):
            allowed = self.allowed_from(request.url, response) & step.allowed
        return replace(step, url=target, headers=headers, allowed=allowed)

    def allowed_from(self, url: httpx2.URL, response: httpx2.Response) -> frozenset[Reach]:
        """Return where the sender of `response`, requested at `url`, may send us."""
        peer = self.ambient.reach(peer_of(response))
        return reachable_from(peer, trusted=is_listed(url, self.options))

    async def _send(self, request: Request) -> httpx2.Response:
        connect, stall = self.options.connect_timeout, self.options.stall_timeout
        timeout = {"connect": connect, "read": stall, "write": stall, "pool": None}
        sent = httpx2.Request(
            request.method,
            request.url,
            headers={"user-agent": "waggle", "accept-encoding": "identity", **request.headers},
            content=request.body() if callable(request.body) else request.body or None,
            extensions={"timeout": timeout, ALLOWED: request.allowed},
        )
        response = await self._transport.handle_async_request(sent)
        response.request = sent
        return response

    def _overloaded(self, url: httpx2.URL, response: httpx2.Response) -> Transient:
        status = response.status_code
        wait = retry_after(response.headers.get("retry-after", ""), self.ambient.now())
        what = "limits the rate of requests" if status == 429 else f"answers with status {status}"
        return Transient(f"{shown(url)} {what}.", wait)


@contextlib.contextmanager
def failures(url: httpx2.URL) -> Generator[None]:
    """Turn the transport's exceptions into Transient, or ImageUnavailable for lasting ones."""
    where = shown(url)
    try:
        yield
    except Forbidden:
        raise ImageUnavailable(
            f"{where} leads to an address of this machine or of a private network.",
            hint="If that is meant, the operator names the registry in WAGGLE_ALLOWED_IMAGES, "
            "without a star, or lists the host in WAGGLE_INSECURE_REGISTRIES.",
        ) from None
    except BROKEN as error:
        if isinstance(error.__cause__ or error.__context__, ssl.SSLError):
            raise _tls_failure(where, error) from error
        raise Transient(f"{where}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, httpcore2.ConnectTimeout | httpcore2.ConnectError):
        return "it cannot be reached"
    if isinstance(error, httpcore2.TimeoutException):
        return "it stopped sending"
    if isinstance(error, httpcore2.NetworkError):
        return "the connection broke"
    return "the connection broke, or the answer is not HTTP"


def _tls_failure(where: str, error: Exception) -> ImageUnavailable:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ImageUnavailable(
            f"The certificate of {where} is not trusted: {cause.verify_message.rstrip('.')}.",
            hint="Put the certificate of its authority into WAGGLE_CA_BUNDLE.",
        )
    return ImageUnavailable(
        f"{where} does not speak TLS as we do.",
        hint="If it speaks plain HTTP, list it in WAGGLE_INSECURE_REGISTRIES.",
    )


async def read_body(response: httpx2.Response, limit: int, where: str) -> bytes:
    """Read a body of at most `limit` bytes. Raises ImageCorrupt when it is longer."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise ImageCorrupt(f"{where} sends a document of more than {limit} bytes.")
    return bytes(body)
