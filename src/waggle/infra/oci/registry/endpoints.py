# SPDX-License-Identifier: Apache-2.0
"""The servers of a repository (mirrors first, then its registry), redirect rules and retries.

Pure except for `retrying`, which waits with an injected sleep. Sends no requests.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx2

from waggle.domain.errors import ImageUnavailable, InvalidArgument, RegistryBusy, SettingsInvalid
from waggle.domain.reference import ImageReference, check_default_registry
from waggle.infra.oci.registry.options import ANYWHERE, Ambient, Reach, RegistryOptions

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of one repository."""

    registry: str
    """`host` or `host:port`."""
    repository: str
    insecure: bool
    allowed: frozenset[Reach] = ANYWHERE
    """Where connections to it may go."""

    @property
    def name(self) -> str:
        """Registry and repository: the key of its credentials."""
        return f"{self.registry}/{self.repository}"

    def url(self, path: str, **query: str) -> httpx2.URL:
        """Return the URL of `path` below the repository; registry and repository are checked."""
        scheme = "http" if self.insecure else "https"
        text = f"{scheme}://{self.registry}/v2/{self.repository}/{path}"
        return httpx2.URL(text, params=query) if query else httpx2.URL(text)


def endpoints(reference: ImageReference, options: RegistryOptions) -> tuple[Endpoint, ...]:
    """Return the servers in the order to try them.

    Raises InvalidArgument for a name without registry, SettingsInvalid for a malformed mirror.
    """
    own = own_endpoint(reference, options)
    is_named = own.insecure or options.named is None or own.registry in options.named
    if not is_named:
        own = replace(own, allowed=frozenset({Reach.PUBLIC}))
    found: list[Endpoint] = []
    for mirror in options.mirrors.get(reference.registry, ()):
        host, _, path = _checked(mirror).partition("/")
        repository = f"{path}/{reference.repository}" if path else reference.repository
        found.append(Endpoint(host, repository, is_insecure(host, options)))
    return (*found, own)


def _checked(mirror: str) -> str:
    if not mirror:
        raise SettingsInvalid("A mirror in WAGGLE_REGISTRY_MIRRORS is empty.")
    try:
        return check_default_registry(mirror)
    except InvalidArgument as error:
        raise SettingsInvalid(
            f"{mirror[:80]!a} in WAGGLE_REGISTRY_MIRRORS is no mirror.", hint=error.hint
        ) from None


def own_endpoint(reference: ImageReference, options: RegistryOptions) -> Endpoint:
    """Return the registry itself. Raises InvalidArgument for a name without registry."""
    registry = reference.registry
    if not registry:
        raise InvalidArgument(
            f"'{reference}' names no registry.",
            hint="Write it as registry.example/name:tag, or set WAGGLE_DEFAULT_REGISTRY.",
        )
    return Endpoint(registry, reference.repository, is_insecure(registry, options))


def is_insecure(registry: str, options: RegistryOptions) -> bool:
    """Return whether the operator listed this `host[:port]` for plain HTTP."""
    return registry.lower() in {name.lower() for name in options.insecure}


def origin(url: httpx2.URL) -> tuple[str, str, int]:
    """Return scheme, host and port."""
    return url.scheme, url.host.lower(), url.port or _PORTS.get(url.scheme, 0)


def is_listed(url: httpx2.URL, options: RegistryOptions) -> bool:
    """Return whether the URL's host is listed for plain HTTP."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    with_port = f"{host}:{origin(url)[2]}"
    if is_insecure(with_port, options):
        return True
    return url.port is None and is_insecure(host, options)


def shown(url: httpx2.URL) -> str:
    """Return the URL's origin for a message: never its path or query, which may hold secrets."""
    text = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
    return text if text.isascii() and text.isprintable() and len(text) <= 200 else "another host"


def redirected(source: httpx2.URL, location: str, options: RegistryOptions) -> httpx2.URL:
    """Return the target of a redirect. Raises ImageUnavailable when it is not allowed."""
    try:
        target = source.join(location)
    except httpx2.InvalidURL:
        target = httpx2.URL()
    if target.scheme not in _PORTS or not target.host or target.userinfo:
        raise ImageUnavailable(f"{shown(source)} sends a redirect that cannot be followed.")
    same = origin(target) == origin(source)
    if target.scheme == "http" and not same and not is_listed(target, options):
        raise ImageUnavailable(
            f"{shown(source)} redirects to {shown(target)}, which is not encrypted.",
            hint="Only hosts in WAGGLE_INSECURE_REGISTRIES are spoken to over plain HTTP.",
        )
    return target


_T = TypeVar("_T")
_SECONDS = re.compile(r"[0-9]{1,9}")

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transient(Exception):
    """A failure that may pass. `text` is for a message; `wait` is the registry's Retry-After."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.text = text
        self.wait = wait


def retry_after(value: str, now: float) -> float:
    """Return the seconds from `now` in a Retry-After header (seconds or a date); 0 if unreadable.

    Not bounded: `pause` does that.
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=dt.UTC)
        return max(0.0, at.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def pause(failures: int, wait: float, chance: float, options: RegistryOptions) -> float:
    """Return the seconds to wait after the `failures`-th failure in a row (1 is the first).

    Half of the exponential pause is fixed and half is jitter, so that clients that failed together
    do not return together. The registry's Retry-After is a lower bound, up to the longest pause
    that we accept.
    """
    usual = options.first_pause * 2 ** min(failures - 1, 30)
    jittered = min(usual, options.longest_pause) * (0.5 + 0.5 * chance)
    return max(jittered, min(wait, options.longest_pause))


async def retrying(
    work: Callable[[], Awaitable[_T]],
    options: RegistryOptions,
    ambient: Ambient,
    progressed: Callable[[], bool] = lambda: False,
) -> _T:
    """Run `work` until it raises no Transient, at most `options.attempts` times in a row.

    `progressed()` returns whether a failed attempt got far enough to restart the count. Raises
    RegistryBusy with the last failure's text.
    """
    failures = 0
    while True:
        try:
            return await work()
        except Transient as error:
            failures = 1 if progressed() else failures + 1
            if failures >= options.attempts:
                raise RegistryBusy(error.text) from error
            seconds = pause(failures, error.wait, ambient.chance(), options)
        await ambient.sleep(seconds)
