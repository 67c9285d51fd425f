# SPDX-License-Identifier: Apache-2.0
"""Operators and clients of a real `waggle serve` with authentication: tokens, logs, metrics."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.issuer import AUDIENCE, issuing
from tests.support.server import bearer, request
from tests.support.waggle_client import until
from tests.support.waggle_process import Waggle, beside, command_line, running, small

from waggle.cli.main import WRONG_SETTINGS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIST = request("tools/call", {"name": "list_environments", "arguments": {}})


class Operator:
    """The operator of a server: runs `waggle token` and knows the paths of its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokens, self.audit = directory / "tokens", directory / "audit.log"
        self.settings = {
            "auth_tokens_file": str(self.tokens),
            "image_cache_dir": str(directory / "cache"),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return command_line("token", *words, data=self.directory, settings=self.settings)

    def new(self, *words: str) -> str:
        made = self.run("new", *words)
        assert made.returncode == 0, made.stderr
        assert made.stdout.strip() not in made.stderr
        return made.stdout.strip()

    def listed(self) -> list[dict[str, Any]]:
        return json.loads(self.run("ls", "--json").stdout)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


@pytest.fixture
def server(operator: Operator, tmp_path: Path) -> Generator[Waggle]:
    """A server with one unused token, and an audit log that includes code."""
    operator.new("nobody")
    settings = {**operator.settings, "audit_log": str(operator.audit), "audit_code": "true"}
    with running(tmp_path, settings) as started:
        yield started


async def post(server: Waggle, token: str = "", message: object = LIST) -> httpx2.Response:
    headers = {"Accept": "application/json, text/event-stream", **bearer(token)}
    async with httpx2.AsyncClient(timeout=20) as http:
        return await http.post(server.mcp, json=message, headers=headers)


def test_tokens_are_made_listed_and_removed(operator: Operator) -> None:
    assert operator.run("ls").stdout == "No tokens.\n"
    token = operator.new("ann", "--expires", "90d")
    assert token.startswith("wgl_")
    assert operator.tokens.stat().st_mode & 0o777 == 0o600
    operator.new("bob")
    assert token not in operator.tokens.read_text()
    ann, bob = operator.listed()
    assert (ann["owner"], bob["owner"], bob["expires"]) == ("ann", "bob", None)
    assert ann["expires"].endswith("Z")
    shown = operator.run("ls").stdout
    assert "ann" in shown
    assert "never" in shown
    removed = operator.run("rm", ann["id"])
    assert (removed.returncode, removed.stdout) == (0, f"{ann['id']}\n")
    assert [row["owner"] for row in operator.listed()] == ["bob"]


@pytest.mark.parametrize(
    "words,code,message",
    [
        (("rm", "000000000000"), 1, "There is no token"),
        (("rm",), 2, "No token was named"),
        (("new", "a b"), 2, "cannot be an owner"),
        (("new", "#ann"), 2, "comment"),
        (("new", "ann", "--expires", "tomorrow"), 2, "no duration from 1m to 3650d"),
    ],
)
def test_an_operators_mistake_is_reported(
    operator: Operator, words: tuple[str, ...], code: int, message: str
) -> None:
    ended = operator.run(*words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr
    assert not operator.tokens.exists()


def test_a_hand_written_file_keeps_its_comments_and_its_mode(operator: Operator) -> None:
    operator.tokens.touch(0o640)
    operator.tokens.chmod(0o640)
    operator.tokens.write_text(f"# ours\nann sha256:{'a' * 64}  # laptop")
    operator.new("bob")
    assert operator.tokens.read_text().startswith(f"# ours\nann sha256:{'a' * 64}  # laptop\nbob ")
    operator.run("rm", "a" * 12)
    assert operator.tokens.read_text().startswith("# ours\nbob ")
    assert operator.tokens.stat().st_mode & 0o777 == 0o640


def test_a_broken_file_is_not_added_to(operator: Operator) -> None:
    operator.tokens.touch(0o600)
    operator.tokens.write_text("ann wgl_secret\n")
    ended = operator.run("new", "bob")
    assert ended.returncode == 1
    assert "Line 1" in ended.stderr
    assert "wgl_secret" not in ended.stderr
    assert operator.tokens.read_text() == "ann wgl_secret\n"


def test_a_missing_tokens_file_names_the_setting(tmp_path: Path) -> None:
    ended = command_line("token", "ls", data=tmp_path, settings={"image_cache_dir": "/nonexistent"})
    assert ended.returncode == 1
    assert "WAGGLE_AUTH_TOKENS_FILE" in ended.stderr


async def test_a_running_server_rereads_its_tokens(operator: Operator, server: Waggle) -> None:
    assert (await post(server)).status_code == 401
    token = operator.new("ann")

    async def status() -> int:
        return (await post(server, token)).status_code

    async def let_in() -> bool:
        return await status() == 200

    async def kept_out() -> bool:
        return await status() == 401

    await until(let_in, 5)
    operator.run("rm", operator.listed()[-1]["id"])
    await until(kept_out, 5)


async def test_the_command_line_sends_its_token(operator: Operator, server: Waggle) -> None:
    without = beside(server, "env", "ls")
    assert without.returncode == 1
    assert "requires a token" in without.stderr
    assert "WAGGLE_TOKEN" in without.stderr
    token = operator.new("ann")
    server.settings["token"] = token

    def answered() -> bool:
        return beside(server, "env", "ls").stdout.startswith("No environments.")

    await until(answered, 20)
    server.settings["token"] = "wgl_wrong"
    wrong = beside(server, "env", "ls")
    assert wrong.returncode == 1
    assert "refuses the token" in wrong.stderr
    assert "wgl_wrong" not in wrong.stderr
    server.settings["token"] = operator.new("metrics")
    other = beside(server, "env", "ls")
    assert other.returncode == 1
    assert "token" in other.stderr


async def test_logs_hold_no_secrets_and_calls_are_audited(
    operator: Operator, server: Waggle
) -> None:
    token = operator.new("ann")

    async def called() -> bool:
        return (await post(server, token)).status_code == 200

    await until(called, 5)
    code = {"environment_id": "x\n\x1b[31m", "code": "print('secret code')\n"}
    await post(server, token, request("tools/call", {"name": "execute", "arguments": code}))
    await post(server, token + "x")
    await post(server, "eyJhbGciOiJub25lIn0.e30.")
    lines = [json.loads(line) for line in operator.audit.read_text().splitlines()]
    last = lines[-1]
    assert (last["owner"], last["tool"], last["outcome"]) == ("ann", "execute", "invalid_argument")
    assert (last["environment"], last["client"]) == (None, "127.0.0.1")
    assert last["program"] == code["code"]
    log, audit = server.text(), operator.audit.read_text()
    assert len(server.events("auth_refused")) >= 2
    for secret in (token, token[4:], "eyJhbGciOiJub25lIn0"):
        assert secret not in log
        assert secret not in audit
    assert "secret code" not in log
    operator.audit.rename(operator.audit.with_suffix(".1"))
    server.send(signal.SIGHUP)
    await until(operator.audit.exists, 5)
    await post(server, token)
    assert len(operator.audit.read_text().splitlines()) == 1


async def test_metrics_of_a_running_server(operator: Operator, server: Waggle) -> None:
    scraper = operator.new("metrics")
    async with httpx2.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/metrics")).status_code == 401

        async def scraped() -> bool:
            return (await http.get("/metrics", headers=bearer(scraper))).status_code == 200

        await until(scraped, 5)
        text = (await http.get("/metrics", headers=bearer(scraper))).text
    assert 'waggle_environments{state="running"} 0.0' in text
    assert "waggle_environments_max 10.0" in text


async def test_a_tokens_file_that_cannot_be_used_stops_the_start(operator: Operator) -> None:
    for prepare, message in ((lambda: None, "No such file"), (_broken(operator), "Line 2")):
        prepare()
        ended = command_line("serve", data=operator.directory, settings=operator.settings)
        assert ended.returncode == 1
        assert message in ended.stderr


def _broken(operator: Operator) -> Any:
    def write() -> None:
        operator.tokens.touch(0o600)
        operator.tokens.write_text("# tokens\nann hunter2\n")

    return write


async def test_other_addresses_require_authentication(operator: Operator, tmp_path: Path) -> None:
    exposed = {"image_cache_dir": "/nonexistent", "listen_addr": "0.0.0.0:0"}
    refused = command_line("serve", data=tmp_path, settings=exposed)
    assert refused.returncode == WRONG_SETTINGS
    for way in ("WAGGLE_AUTH_TOKENS_FILE", "WAGGLE_OAUTH_ISSUER", "WAGGLE_ALLOW_REMOTE"):
        assert way in refused.stderr
    operator.new("ann")
    with running(tmp_path, {**operator.settings, "listen_addr": "0.0.0.0:0"}) as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # the address it bound
        assert (await post(server)).status_code == 401


async def test_a_server_accepts_tokens_of_its_issuer(tmp_path: Path) -> None:
    async with issuing() as issuer:
        settings = {
            "image_cache_dir": str(tmp_path / "cache"),
            "oauth_issuer": issuer.url,
            "oauth_audience": AUDIENCE,
            "oauth_scope": "waggle",
        }
        with running(tmp_path, settings) as server:
            refused = await post(server)
            assert refused.status_code == 401
            assert "https://waggle.test/.well-known/" in refused.headers["www-authenticate"]
            assert (await post(server, issuer.token())).status_code == 200
            assert (await post(server, issuer.token(scope="x"))).status_code == 403
            assert (await post(server, issuer.token(exp=1))).status_code == 401
            headers = {"Host": "waggle.test"}  # the host name that its clients use
            async with httpx2.AsyncClient(base_url=server.url, headers=headers) as http:
                answer = await http.get("/.well-known/oauth-protected-resource/mcp")
                assert answer.json()["authorization_servers"] == [issuer.url]
            assert issuer.token() not in server.text()


@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_owners_do_not_see_each_others_machine(operator: Operator, tmp_path: Path) -> None:
    ann, bob, scraper = operator.new("ann"), operator.new("bob"), operator.new("metrics")
    settings = {
        **small(tmp_path),
        "auth_tokens_file": str(operator.tokens),
        "audit_log": str(operator.audit),
        "max_environments_per_owner": "1",
    }

    async def tool(token: str, name: str, **arguments: object) -> dict[str, Any]:
        message = request("tools/call", {"name": name, "arguments": arguments})
        text = (await post(server, token, message)).text
        data = [line[5:] for line in text.splitlines() if line.startswith("data:")]
        return json.loads(data[-1])["result"]

    with running(tmp_path, settings) as server:
        made = await tool(ann, "create_environment", runtime="shell")
        hers = made["structuredContent"]["environment_id"]
        ran = await tool(ann, "execute", environment_id=hers, code="echo hers > f; cat f")
        assert ran["structuredContent"]["stdout"] == "hers\n"
        stolen = await tool(bob, "read_file", environment_id=hers, path="f")
        assert stolen["_meta"]["waggle/error"]["code"] == "not_found"
        assert "hers" not in stolen["content"][0]["text"]
        more = await tool(ann, "create_environment", runtime="shell")
        assert more["_meta"]["waggle/error"]["code"] == "quota_exceeded"
        async with httpx2.AsyncClient(base_url=server.url, headers=bearer(scraper)) as http:
            page = (await http.get("/metrics")).text
        assert 'waggle_environments{state="running"} 1.0' in page
        assert "waggle_environment_create_seconds_count 1.0" in page
        assert 'waggle_tool_calls_total{outcome="quota_exceeded",' in page
        for secret in ("ann", "bob", hers):
            assert secret not in page
        await tool(ann, "destroy_environment", environment_id=hers)
    lines = [json.loads(line) for line in operator.audit.read_text().splitlines()]
    assert [(line["owner"], line["tool"], line["outcome"]) for line in lines] == [
        ("ann", "create_environment", "ok"),
        ("ann", "execute", "ok"),
        ("bob", "read_file", "not_found"),
        ("ann", "create_environment", "quota_exceeded"),
        ("ann", "destroy_environment", "ok"),
    ]
    assert [line["environment"] for line in lines] == [hers, hers, hers, None, hers]
    assert "echo" not in operator.audit.read_text()
