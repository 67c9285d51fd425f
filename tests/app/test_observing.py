# SPDX-License-Identifier: Apache-2.0
"""Access rules, metrics and the audit log, built from the settings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.issuer import issuing
from tests.support.vm import environment

from waggle.app.observing import (
    access_rules,
    egress_log,
    exposed_urls,
    public_names,
    rates,
    watching,
)
from waggle.app.values import certificates
from waggle.config import Settings, load
from waggle.domain.access import Owner, Principal
from waggle.domain.errors import SettingsInvalid
from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.guest_agent import GuestTotals
from waggle.domain.network.decisions import ALLOWED, Decision, Ended
from waggle.domain.observer import Call
from waggle.infra.access.tokens_file import digest
from waggle.infra.net.record import Record
from waggle.infra.observe.egress_lines import MOST_KINDS
from waggle.web.access import OPEN, AccessRules, OAuthResource

pytestmark = pytest.mark.anyio

TOKEN = "wgl_" + "a" * 43
CALL = Call(Owner("ann"), "execute", "ok", 0.1)


def rules_of(given: Settings) -> AccessRules:
    return access_rules(given, certificates(given))


def settings(**values: str) -> Settings:
    return load({f"WAGGLE_{name}": value for name, value in values.items()}, is_root=True)


async def test_without_settings_every_client_may_call() -> None:
    assert rules_of(settings()) == OPEN
    assert rates(settings()) is None
    assert public_names(settings()) == ()


async def test_there_are_several_owners_as_soon_as_the_token_file_names_two(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    file.write_text(f"ann sha256:{digest(TOKEN)}\nmetrics sha256:{digest(TOKEN[::-1])}\n")
    alone = rules_of(settings(AUTH_TOKENS_FILE=str(file)))
    assert not alone.several()
    with file.open("a") as more:
        more.write(f"bob sha256:{digest(TOKEN + 'b')}\n")
    assert rules_of(settings(AUTH_TOKENS_FILE=str(file))).several()
    oauth = {"OAUTH_ISSUER": "https://i.test", "OAUTH_AUDIENCE": "https://w.test/mcp"}
    assert rules_of(settings(**oauth)).several()
    assert not OPEN.several()


async def test_static_and_oauth_tokens_are_both_accepted(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    file.write_text(f"ann sha256:{digest(TOKEN)}\n")
    async with issuing() as issuer:
        given = settings(
            AUTH_TOKENS_FILE=str(file),
            OAUTH_ISSUER=issuer.url,
            OAUTH_AUDIENCE="api://waggle",
            PUBLIC_URL="https://waggle.test/mcp",
        )
        rules = rules_of(given)
        assert rules.verifier is not None
        assert (await rules.verifier.verify(TOKEN)).owner == "ann"
        issued = await rules.verifier.verify(issuer.token(aud="api://waggle"))
        assert issued == Principal(Owner(f"{issuer.url}#ann"), "oauth")
        assert rules.resource == OAuthResource("https://waggle.test/mcp", issuer.url)
        assert public_names(given) == ("waggle.test",)


@pytest.mark.parametrize(
    "given, urls",
    [
        ({}, ExposedUrls()),
        ({"PUBLIC_URL": "https://w.test/mcp"}, ExposedUrls("https://w.test")),
        ({"PUBLIC_URL": "https://w.test:8443/base/mcp/"}, ExposedUrls("https://w.test:8443/base")),
        ({"EXPOSE_HOST": "Box.test:9"}, ExposedUrls("", "box.test:9")),
        (
            {"OAUTH_ISSUER": "https://i.test", "OAUTH_AUDIENCE": "https://w.test/mcp"},
            ExposedUrls("https://w.test", is_private=True),
        ),
    ],
)
async def test_urls_of_exposed_ports_begin_as_the_servers_own(
    given: dict[str, str], urls: ExposedUrls
) -> None:
    assert exposed_urls(settings(**given)) == urls
    names = public_names(settings(**given))
    assert names == ((urls.public.split("/")[2],) if urls.public else ())


@pytest.mark.parametrize("host", ["127.0.0.1", "a_b.test", "*.box.test", "box.test:0", "-a", "a/b"])
async def test_a_host_for_exposed_ports_is_a_name(host: str) -> None:
    with pytest.raises(SettingsInvalid, match="EXPOSE_HOST"):
        settings(EXPOSE_HOST=host)


async def test_unusable_files_and_certificates_refuse_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nnope\n")
    oauth = {"OAUTH_ISSUER": "https://i.test", "OAUTH_AUDIENCE": "https://w.test/mcp"}
    with pytest.raises(SettingsInvalid, match="WAGGLE_CA_BUNDLE"):
        rules_of(settings(CA_BUNDLE=str(tmp_path / "ca.pem"), **oauth))
    with pytest.raises(SettingsInvalid, match="tokens"):
        rules_of(settings(AUTH_TOKENS_FILE=str(tmp_path / "tokens")))
    with (
        pytest.raises(SettingsInvalid, match="WAGGLE_AUDIT_LOG"),
        watching(settings(AUDIT_LOG=str(tmp_path / "no/such")), list),
    ):
        pass


async def test_calls_are_counted_and_audited(tmp_path: Path) -> None:
    file = tmp_path / "audit"
    with watching(settings(AUDIT_LOG=str(file)), list) as watch:
        watch.observer.call_ended(CALL)
        assert watch.scrape is not None
        page = watch.scrape(3)[0].decode()
        assert 'waggle_tool_calls_total{outcome="ok",tool="execute"} 1.0' in page
        assert watch.reopen is not None
    assert json.loads(file.read_text())["owner"] == "ann"


async def test_metrics_and_audit_log_can_both_be_off() -> None:
    with watching(settings(METRICS="false"), list) as watch:
        watch.observer.call_ended(CALL)
        assert watch.scrape is watch.reopen is None


async def test_denied_connections_are_counted_and_logged() -> None:
    with watching(settings(), list) as watch, capture_logs() as logs:
        assert watch.scrape is not None
        later: list[Callable[[], None]] = []
        hears = [
            egress_log(
                watch.observer, replace(environment(), id=name), lambda _, do: later.append(do)
            )
            for name in ("e", "f")
        ]
        for heard in hears:
            heard.decided(Decision("h.test", 80, ALLOWED))
            for number in range(265):
                heard.decided(Decision(f"{number}.test", 80, "p"))
        assert 'waggle_egress_denied_total{why="p"} 530.0' in watch.scrape(0)[0].decode()
        first = {"event": "egress_denied", "log_level": "info", "port": 80, "why": "p"}
        assert logs == [first | {"environment": name, "host": "0.test"} for name in ("e", "f")]
        for do in later:
            do()
    rest = first | {"host": "264.test", "more_in_last_second": 263}
    assert logs[2:] == [rest | {"environment": name} for name in ("e", "f")]


async def test_every_connection_is_in_the_audit_log_with_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "audit"
    made = replace(environment(), owner="ann")
    with watching(settings(AUDIT_LOG=str(file)), list) as watch, capture_logs() as logs:
        heard = egress_log(watch.observer, made)
        allowed = Decision("h.test", 443, ALLOWED, "", "*.test", "8.8.8.8")
        heard.decided(allowed)
        assert file.read_text() == "", "it is written when it ends"
        heard.ended(Ended(allowed, 0.5, 10, 20))
        heard.decided(Decision("x.test", 443, "no-rule", "no rule allows it"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["owner"], line["environment"], line["outcome"]) for line in lines] == [
        ("ann", made.id, "allowed"),
        ("ann", made.id, "no-rule"),
    ]
    assert (lines[0]["sent_bytes"], lines[0]["received_bytes"], lines[0]["duration_ms"]) == (
        10,
        20,
        500.0,
    )
    assert [line["host"] for line in logs] == ["x.test"], "allowed ones are private to the guest"


async def test_a_flood_of_refusals_costs_the_loop_little_and_the_logs_a_few_lines(
    tmp_path: Path,
) -> None:
    file, count = tmp_path / "audit", 100_000
    with watching(settings(AUDIT_LOG=str(file)), list) as watch, capture_logs() as logs:
        record = Record(egress_log(watch.observer, environment()))
        began = time.process_time()
        for number in range(count):
            record.decided(Decision(f"{number}.test", 443, "no-rule", "no rule allows it"))
        spent = time.process_time() - began
    assert spent / count < 60e-6
    assert len(file.read_text().splitlines()) <= 2 * MOST_KINDS
    assert len(logs) == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(line.get("more_in_last_second", 0) + 1 for line in lines) == count


async def test_the_page_of_metrics_is_read_after_the_guests_were_asked() -> None:
    totals: list[GuestTotals] = [GuestTotals()]

    async def refresh() -> None:
        totals.append(GuestTotals(answering=len(totals)))

    with watching(settings(METRICS="true"), list, guests=lambda: totals[-1]) as watch:
        scrape = watch.scrape_after(refresh)
        assert scrape is not None
        for number in (1, 2):
            page, kind = await scrape(0)
            assert f'waggle_guest_agents{{state="answering"}} {number}.0' in page.decode()
            assert kind.startswith("text/plain")


async def test_without_a_page_no_guest_is_asked() -> None:
    async def refresh() -> None:
        raise AssertionError("nobody asks")

    with watching(settings(METRICS="false"), list) as watch:
        assert watch.scrape_after(refresh) is None
