# SPDX-License-Identifier: Apache-2.0
"""Good and forged tokens of an issuer, verified against its real keys over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.issuer import (
    AUDIENCE,
    Issuer,
    forged,
    issuing,
    jwk,
    private_key,
    public_pem,
)
from tests.support.waiting import until

from waggle.domain.access import CannotVerify, ScopeMissing, TokenRefused
from waggle.infra.access.jwks import Jwks, Pace, metadata_urls
from waggle.infra.access.jwt import JwtRules, JwtVerifier, judge

pytestmark = pytest.mark.anyio

TLS = ssl.create_default_context()
FAST = Pace(fetch=3.0)


class Clock:
    """Seconds since the verifier was made, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> float:
        return time.time() + self.seconds


class Trial:
    """A verifier, its issuer and its clock."""

    def __init__(self, issuer: Issuer, *, pace: Pace = FAST, url: str | None = None) -> None:
        self.issuer, self.clock = issuer, Clock()
        self.rules = JwtRules(issuer.url, AUDIENCE)
        self.keys = Jwks(issuer.url, url, tls=TLS, monotonic=self.clock.monotonic, pace=pace)
        self.restart()

    def restart(self, **changes: str) -> None:
        """Use the same keys under other rules, with an empty cache."""
        self.rules = replace(self.rules, **changes)
        self.verifier = JwtVerifier(
            self.rules, self.keys, now=self.clock.now, monotonic=self.clock.monotonic
        )

    async def outcome(self, token: str) -> str:
        try:
            return (await self.verifier.verify(token)).owner
        except CannotVerify:
            return "cannot verify"
        except ScopeMissing as refusal:
            return f"scope: {refusal.scope}"
        except TokenRefused as refusal:
            return f"refused: {refusal.reason}"


@asynccontextmanager
async def trial(pace: Pace = FAST, **given: Any) -> AsyncGenerator[Trial]:
    async with issuing(**given) as issuer:
        yield Trial(issuer, pace=pace)


@pytest.mark.parametrize("kind", ["rsa", "ec", "ec384", "ed"])
async def test_every_kind_of_key_can_sign(kind: str) -> None:
    async with trial(keys={"k": kind}) as t:
        assert await t.outcome(t.issuer.token("k")) == f"{t.issuer.url}#ann"
        assert t.issuer.requests == [
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
            "/keys",
        ]


NOW = int(time.time())
BAD_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": NOW - 3600}, "refused: expired"),
    "no expiry": ({"exp": None}, "refused: no expiry"),
    "not yet valid": ({"nbf": NOW + 3600}, "refused: not yet valid"),
    "from the future": ({"iat": NOW + 3600}, "refused: not yet valid"),
    "other audience": ({"aud": "https://other.test/mcp"}, "refused: audience"),
    "no audience": ({"aud": None}, "refused: audience"),
    "a part of the audience": ({"aud": AUDIENCE[:-1]}, "refused: audience"),
    "other issuer": ({"iss": "https://evil.test"}, "refused: issuer"),
    "no issuer": ({"iss": None}, "refused: issuer"),
    "no subject": ({"sub": None}, "refused: no owner"),
    "empty subject": ({"sub": ""}, "refused: no owner"),
    "long subject": ({"sub": "x" * 600}, "refused: the owner is too long"),
}


@pytest.mark.parametrize("name", BAD_CLAIMS)
async def test_bad_claims_are_refused(name: str) -> None:
    claims, outcome = BAD_CLAIMS[name]
    async with trial() as t:
        assert await t.outcome(t.issuer.token(**claims)) == outcome


async def test_clocks_may_differ_a_little() -> None:
    async with trial() as t:
        now = int(time.time())
        assert "#ann" in await t.outcome(t.issuer.token(exp=now - 20))
        assert "#ann" in await t.outcome(t.issuer.token(nbf=now + 20))


def hs256(issuer: Issuer) -> str:
    """Return a token signed with the public key as a secret, which PyJWT refuses to do."""
    head = forged({"alg": "HS256", "kid": "r1"}, issuer.claims())[:-1]
    mac = hmac.digest(public_pem(private_key("rsa", "r1")), head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def by_another(issuer: Issuer) -> str:
    key = private_key("ec", "an attacker's")
    return jwt.encode(issuer.claims(), key, algorithm="ES256", headers={"kid": "k1"})


def with_its_own_key(issuer: Issuer) -> str:
    key = private_key("ec", "an attacker's")
    header = {"kid": "k1", "jwk": jwk("k1", key), "jku": "http://127.0.0.1:1/keys"}
    return jwt.encode(issuer.claims(), key, algorithm="ES256", headers=header)


def as_somebody_else(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    body = forged({}, issuer.claims(sub="root")).split(".")[1]
    return f"{head}.{body}.{signature}"


FORGERIES: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "alg none": (lambda i: forged({"alg": "none"}, i.claims()), "algorithm"),
    "alg None": (lambda i: forged({"alg": "NoNe", "kid": "k1"}, i.claims()), "algorithm"),
    "no alg": (lambda i: forged({"kid": "k1"}, i.claims()), "algorithm"),
    "alg list": (lambda i: forged({"alg": ["ES256"], "kid": "k1"}, i.claims()), "algorithm"),
    "hs256 with the public key": (hs256, "algorithm"),
    "another key": (by_another, "signature"),
    "its own key in the header": (with_its_own_key, "signature"),
    "changed": (as_somebody_else, "signature"),
    "no signature": (lambda i: forged({"alg": "ES256", "kid": "k1"}, i.claims()), "signature"),
    "the other kind of key": (
        lambda i: forged({"alg": "RS256", "kid": "k1"}, i.claims()),
        "no such key",
    ),
    "odd kid": (lambda i: forged({"alg": "ES256", "kid": 5}, i.claims()), "malformed"),
    "critical": (
        lambda i: forged({"alg": "ES256", "kid": "k1", "crit": ["x"], "x": 1}, i.claims()),
        "malformed",
    ),
    "not a token": (lambda _: "hello", "malformed"),
    "dots": (lambda _: "....", "malformed"),
    "deep": (lambda _: forged({"alg": "ES256"}, {}).replace(".", "." + "W1tb" * 3000), "?"),
    "long": (lambda _: "x" * 20_000, "too long"),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_forged_tokens_are_refused(name: str) -> None:
    forge, reason = FORGERIES[name]
    async with trial() as t:
        outcome = await t.outcome(forge(t.issuer))
        assert outcome.startswith("refused: ")
        if reason != "?":
            assert outcome == f"refused: {reason}"


# Signing with a weak key also warns.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_unsuitable_keys_are_ignored() -> None:
    """Weak, private, symmetric and encryption keys in the JWKS are ignored."""
    good = jwk("e1", private_key("ec", "e1"), use="enc")
    private = jwk("p1", private_key("ec", "p1"), d="AAAA")
    async with trial(
        keys={"w1": "weak", "e1": "ec", "p1": "ec", "k1": "ec"}, shown={"w1", "k1"}
    ) as t:
        t.issuer.more = [good, private, {"kty": "oct", "k": "AAAA"}, "x", {"kty": "RSA"}]  # pyright: ignore[reportAttributeAccessIssue]  # bad on purpose
        assert "#ann" in await t.outcome(t.issuer.token("k1"))
        for kid in ("w1", "e1", "p1"):
            assert await t.outcome(t.issuer.token(kid)) == "refused: no such key"


async def test_the_scope_is_required() -> None:
    async with trial() as t:
        t.restart(scope="waggle")
        assert "#ann" in await t.outcome(t.issuer.token(scope="a waggle b"))
        assert "#ann" in await t.outcome(t.issuer.token(scope=None, scp=["waggle"]))
        for wrong in ("waggle:read", "", None, 5, {"waggle": 1}):
            assert await t.outcome(t.issuer.token(scope=wrong)) == "scope: waggle"


async def test_the_owner_comes_from_a_claim() -> None:
    async with trial() as t:
        t.restart(owner_claim="email")
        assert await t.outcome(t.issuer.token(email="ann@a.test")) == "ann@a.test"
        assert await t.outcome(t.issuer.token(email="a b\n")) == "a%20b%0A"
        for wrong in (None, "", 5, ["ann@a.test"]):
            assert await t.outcome(t.issuer.token(email=wrong)) == "refused: no owner"


async def test_a_cached_token_still_expires() -> None:
    async with trial() as t:
        token = t.issuer.token(exp=int(time.time()) + 5)
        assert "#ann" in await t.outcome(token)
        t.clock.seconds = 25
        assert "#ann" in await t.outcome(token)  # within the leeway
        t.clock.seconds = 36
        assert await t.outcome(token) == "refused: expired"


async def test_many_unknown_keys_ask_the_issuer_once() -> None:
    async with trial() as t:
        assert "#ann" in await t.outcome(t.issuer.token())
        t.clock.seconds = 20
        for number in range(50):
            token = by_another(t.issuer) if number % 2 else t.issuer.token(f"x{number}")
            assert (await t.outcome(token)).startswith("refused")
        assert t.issuer.fetched == 2
        t.clock.seconds = 31
        await t.outcome(t.issuer.token("y"))
        assert t.issuer.fetched == 3


async def test_a_new_key_is_found_and_an_old_one_is_dropped() -> None:
    async with trial(keys={"k1": "ec", "k2": "ec"}, shown={"k1"}) as t:
        assert "#ann" in await t.outcome(t.issuer.token("k1"))
        t.issuer.shown = {"k2"}
        assert await t.outcome(t.issuer.token("k2")) == "refused: no such key"  # just fetched
        t.clock.seconds = 11
        assert "#ann" in await t.outcome(t.issuer.token("k2"))
        t.clock.seconds = 45  # no longer cached
        assert await t.outcome(t.issuer.token("k1")) == "refused: no such key"


async def test_keys_are_renewed_in_time() -> None:
    async with trial() as t:
        token = t.issuer.token(exp=int(time.time()) + 100_000)
        await t.outcome(token)
        t.clock.seconds = 601
        await t.outcome(token)
        assert t.issuer.fetched == 2


BROKEN = ["never", "huge", "error", "redirect", "nonsense", "no keys"]


@pytest.mark.parametrize("how", BROKEN)
async def test_an_issuer_that_fails_is_not_the_clients_fault(how: str) -> None:
    pace = Pace(fetch=0.2) if how == "never" else FAST
    async with trial(pace) as t:
        t.issuer.answers = how  # pyright: ignore[reportAttributeAccessIssue]  # one of them
        with capture_logs() as logs:
            assert await t.outcome(t.issuer.token()) == "cannot verify"
            assert await t.outcome(t.issuer.token()) == "cannot verify"  # at once, no request
        assert [entry["event"] for entry in logs] == ["jwks_not_fetched"]
        t.issuer.answers, t.keys._pace = "well", FAST
        t.clock.seconds = 11
        assert "#ann" in await t.outcome(t.issuer.token())
        t.issuer.answers, t.keys._pace = how, pace  # pyright: ignore[reportAttributeAccessIssue]
        t.clock.seconds = 700
        assert "#ann" in await t.outcome(t.issuer.token())  # the old keys stay valid,
        t.clock.seconds = 90_000
        token = t.issuer.token(exp=int(time.time()) + 100_000)
        assert await t.outcome(token) == "cannot verify"  # but not forever


async def test_an_absent_issuer_cannot_verify() -> None:
    async with trial() as t:
        token = t.issuer.token()
    assert await t.outcome(token) == "cannot verify"


async def test_known_keys_do_not_wait_for_a_fetch() -> None:
    async with trial(pace=Pace(fetch=20)) as t:
        await t.outcome(t.issuer.token())
        t.clock.seconds, t.issuer.answers = 700, "late"
        outcomes: list[str] = []

        async def unknown() -> None:
            outcomes.append(await t.outcome(t.issuer.token("unknown")))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(unknown)
            await until(lambda: len(t.issuer.requests) > 3)
            with anyio.fail_after(5):
                assert "#ann" in await t.outcome(t.issuer.token())
            assert outcomes == []
            t.issuer.release.set()
        assert outcomes == ["refused: no such key"] * 5
        assert t.issuer.fetched == 2


async def test_a_cancelled_request_does_not_stop_the_fetch_for_others() -> None:
    async with trial(pace=Pace(fetch=20)) as t:
        t.issuer.answers = "late"
        async with anyio.create_task_group() as group:
            group.start_soon(t.outcome, t.issuer.token("unknown"))
            await until(lambda: bool(t.issuer.requests))
            group.cancel_scope.cancel()
            t.issuer.release.set()
        assert "#ann" in await t.outcome(t.issuer.token())
        assert t.issuer.fetched == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.test"},
        {"jwks_uri": "http://keys.test/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
    ],
)
async def test_metadata_that_leads_elsewhere_is_rejected(metadata: dict[str, object]) -> None:
    async with trial(metadata=metadata) as t:
        assert await t.outcome(t.issuer.token()) == "cannot verify"
        assert t.issuer.fetched == 0


async def test_a_given_url_needs_no_metadata() -> None:
    async with issuing() as issuer:
        t = Trial(issuer, url=issuer.jwks_url)
        assert "#ann" in await t.outcome(issuer.token())
        assert issuer.requests == ["/keys"]


async def test_metadata_urls_follow_the_issuer() -> None:
    assert metadata_urls("https://i.test/tenant/") == (
        "https://i.test/.well-known/oauth-authorization-server/tenant",
        "https://i.test/tenant/.well-known/openid-configuration",
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
NAMES = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "scope", "scp"])


@given(st.dictionaries(NAMES, VALUES))
async def test_claims_of_any_shape_do_not_crash_judge(changes: dict[str, Any]) -> None:
    good = {"iss": "https://i.test", "aud": [AUDIENCE, "x"], "exp": 1000, "sub": "ann"}
    rules = JwtRules("https://i.test", AUDIENCE, scope="s")
    assert judge({**good, "scope": "s"}, rules, 900) == "https://i.test#ann"
    try:
        owner = judge({**good, **changes}, rules, 900)
    except TokenRefused:
        return
    assert owner.startswith("https://i.test#")
    assert owner.isprintable()
