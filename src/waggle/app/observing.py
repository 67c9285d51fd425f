# SPDX-License-Identifier: Apache-2.0
"""Access rules, rate limit, metrics, audit log and egress log, built from `Settings`.

Used by `waggle.app.root` and `waggle.app.serving`. Knows no use case: services report events
through an `Observer`.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog

from waggle.config import Settings
from waggle.domain.access import Owner
from waggle.domain.environment import Environment, State
from waggle.domain.errors import SettingsInvalid
from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.guest_agent import GuestTotals
from waggle.domain.network.decisions import Decision, Ended
from waggle.domain.network.traffic import Traffic
from waggle.domain.observer import Egress, Observer, Observers
from waggle.infra.access.jwks import Jwks
from waggle.infra.access.jwt import JwtRules, JwtVerifier
from waggle.infra.access.tokens_file import EitherVerifier, TokensFile
from waggle.infra.net.record import Heard
from waggle.infra.observe.audit import AuditLog, Thinning, after
from waggle.infra.observe.metrics import Metrics
from waggle.service.sharing import RateLimiter
from waggle.web import Scrape
from waggle.web.access import OPEN, AccessRules, OAuthResource

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """The observer of events, the page of /metrics if there is one, and the action of SIGHUP."""

    observer: Observer
    traffic: Traffic
    """That of all environments, which the proxies count and the page shows."""
    scrape: Callable[[int], tuple[bytes, str]] | None = None
    reopen: Callable[[], None] | None = None

    def scrape_after(self, refresh: Callable[[], Awaitable[None]]) -> Scrape | None:
        """Return the page of /metrics, for which all guests are asked how busy they are."""
        page = self.scrape
        if page is None:
            return None

        async def scrape(sessions: int) -> tuple[bytes, str]:
            await refresh()
            return page(sessions)

        return scrape


def access_rules(settings: Settings, authorities: bytes) -> AccessRules:
    """Return who may call. `authorities` is what `certificates` returns.

    Raises SettingsInvalid if the tokens file or these are unusable.
    """
    if not settings.authenticates:
        return OPEN
    tokens = (
        TokensFile(settings.auth_tokens_file, now=_now, monotonic=time.monotonic)
        if settings.auth_tokens_file
        else None
    )

    reread = tokens.reread if tokens else OPEN.reread

    def several() -> bool:
        return bool(settings.oauth_issuer) or (tokens is not None and len(tokens.owners) > 1)

    if not settings.oauth_issuer:
        return AccessRules(EitherVerifier(tokens, None), several=several, reread=reread)
    keys = Jwks(
        settings.oauth_issuer,
        settings.oauth_jwks_url or None,
        tls=_tls(settings, authorities),
        monotonic=time.monotonic,
    )
    rules = JwtRules(
        issuer=settings.oauth_issuer,
        audience=settings.oauth_audience,
        scope=settings.oauth_scope,
        owner_claim=settings.oauth_owner_claim,
    )
    issued = JwtVerifier(rules, keys, now=time.time, monotonic=time.monotonic)
    resource = OAuthResource(settings.resource_url, settings.oauth_issuer, settings.oauth_scope)
    return AccessRules(EitherVerifier(tokens, issued), resource, several, reread)


def public_names(settings: Settings) -> tuple[str, ...]:
    """Return the host name under which clients know this server, if there is one."""
    is_known = settings.oauth_issuer or settings.public_url
    return (urlsplit(settings.resource_url).netloc,) if is_known else ()


def exposed_urls(settings: Settings) -> ExposedUrls:
    """Return the form of the URLs of exposed ports."""
    public = settings.resource_url if public_names(settings) else ""
    public = public.rstrip("/").removesuffix("/mcp").rstrip("/")
    return ExposedUrls(public, settings.expose_host, settings.authenticates)


def rates(settings: Settings) -> RateLimiter | None:
    """Return the limiter of an owner's calls per minute, or None for no limit."""
    per_minute = settings.max_calls_per_minute
    return RateLimiter(per_minute, time.monotonic) if per_minute else None


@contextlib.contextmanager
def watching(
    settings: Settings,
    states: Callable[[], Iterable[State]],
    warm: Callable[[], Mapping[str, int]] = dict[str, int],
    guests: Callable[[], GuestTotals] = GuestTotals,
) -> Generator[Watch]:
    """Open metrics and audit log until the block ends.

    Raises SettingsInvalid when the audit log cannot be opened.
    """
    traffic, metrics = Traffic(), None
    if settings.metrics:
        metrics = Metrics(states, settings.max_environments, warm, traffic, guests)
    audit = None
    if settings.audit_log is not None:
        path = None if settings.audit_log == "-" else settings.audit_log
        audit = AuditLog(
            path,
            programs=settings.audit_code,
            network=settings.audit_network,
            now=_now,
            monotonic=time.monotonic,
        )
    try:
        yield Watch(
            Observers([observer for observer in (metrics, audit) if observer is not None]),
            traffic=traffic,
            scrape=metrics.scrape if metrics else None,
            reopen=audit.reopen if audit else None,
        )
    finally:
        if audit is not None:
            audit.close()


class Denied(NamedTuple):
    """A destination that a guest was denied, and the code of the verdict."""

    host: str
    port: int
    why: str


def egress_log(
    observer: Observer,
    environment: Environment,
    later: Callable[[float, Callable[[], None]], None] = after,
) -> Heard:
    """Return callbacks that report a guest's connections to the observer, refused ones at once.

    The server's own log has refused ones, at most one line a second. It has no allowed ones, which
    are private to the guest: these are in the audit log, unless the operator says otherwise.
    """
    owner = Owner(environment.owner)

    def write(denied: Denied, more: int) -> None:
        counted = {"more_in_last_second": more} if more else {}
        log.info("egress_denied", environment=environment.id, **denied._asdict(), **counted)

    thinned = Thinning(write, later)

    def decided(decision: Decision) -> None:
        if not decision.is_allowed:
            observer.connection_ended(Egress(owner, environment.id, decision))
            thinned(environment.id, Denied(decision.host, decision.port, decision.code))

    def ended(connection: Ended) -> None:
        amounts = (connection.seconds, connection.sent, connection.received)
        observer.connection_ended(Egress(owner, environment.id, connection.decision, *amounts))

    return Heard(decided, ended)


def _now() -> datetime:
    return datetime.now(UTC)


def _tls(settings: Settings, authorities: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if authorities:
            context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise SettingsInvalid(f"WAGGLE_CA_BUNDLE={settings.ca_bundle} is malformed.") from error
    return context
