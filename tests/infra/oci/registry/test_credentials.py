# SPDX-License-Identifier: Apache-2.0
"""Credentials from auth.json, config.json and credential helpers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest
from tests.support.leaks import Leaks
from tests.support.registry import PASSWORD, USER, run_registry, skopeo
from tests.support.waiting import cancelled, until

from waggle.domain.errors import ImageUnavailable, SettingsInvalid
from waggle.infra.oci.registry.credentials import Credentials, find_credentials, from_helper

pytestmark = pytest.mark.anyio


def auth(user: str, word: str = "pw") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{word}".encode()).decode()}


def written(path: Path, **document: object) -> tuple[Path, ...]:
    path.write_text(json.dumps(document))
    return (path,)


async def test_the_most_specific_entry_counts(tmp_path: Path) -> None:
    entries = {
        "registry.example": auth("all"),
        "registry.example/team": auth("team"),
        "registry.example/team/app": auth("app"),
        "registry.example:5000": auth("port"),
    }
    files = written(tmp_path / "auth.json", auths=entries)
    expected = {
        "registry.example/team/app": "app",
        "registry.example/team/app2": "team",
        "registry.example/teams/x": "all",
        "registry.example:5000/team/app": "port",
        "registry.example.evil.example/team/app": None,
        "evil.example/registry.example/team": None,
    }
    for name, user in expected.items():
        found = await find_credentials(files, name)
        assert (found.username if found else None) == user


@pytest.mark.parametrize(
    "key", ["https://registry.example/v1/", "http://registry.example", "registry.example/v2/"]
)
async def test_keys_that_are_urls_mean_their_host(tmp_path: Path, key: str) -> None:
    files = written(tmp_path / "config.json", auths={key: auth("u", "a:b\0\0")})
    found = await find_credentials(files, "registry.example/app")
    assert found == Credentials("u", "a:b")


async def test_the_first_file_that_has_an_entry_counts(tmp_path: Path) -> None:
    files = (
        tmp_path / "absent.json",
        *written(tmp_path / "a.json", auths={"other.example": auth("no"), "registry.example": {}}),
        *written(tmp_path / "b.json", auths={"registry.example": {"identitytoken": "it"}}),
        *written(tmp_path / "c.json", auths={"registry.example": auth("late")}),
    )
    found = await find_credentials(files, "registry.example/app")
    assert found == Credentials(identity_token="it")
    assert await find_credentials(files[:2], "registry.example/app") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"auths": {"registry.example": {"auth": "secret"}}}',
        '{"auths": {"registry.example": {"auth": "c2VjcmV0"}}}',
    ],
)
async def test_a_malformed_file_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)
    with pytest.raises(SettingsInvalid, match=r"auth\.json") as caught:
        await find_credentials((path,), "registry.example/app")
    assert "secret" not in str(caught.value).lower()
    assert caught.value.__cause__ is None


async def test_secrets_are_in_no_repr() -> None:
    known = Credentials("user", "pass-word", "identity", "ready")
    assert repr(known) == "Credentials(username='user')"


async def test_a_file_that_skopeo_login_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    with run_registry(tmp_path / "registry", basic=True) as registry:
        login = ("login", "--tls-verify=false", "--authfile", str(path), "-u", USER, "-p", PASSWORD)
        skopeo(*login, registry.name)
        found = await find_credentials((path,), f"{registry.name}/team/app")
        assert found == Credentials(USER, PASSWORD)


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


ECHO = """read server; [ "$1" = get ] || exit 9
printf '{"ServerURL":"x","Username":"%s","Secret":"s3cret"}' "$server" """


async def test_helpers_are_asked_for_the_servers_name(helpers: Path, tmp_path: Path) -> None:
    helper(helpers, "echo", ECHO)
    helper(helpers, "token", 'printf \'{"Username":"<token>","Secret":"it"}\'')
    helper(helpers, "none", "echo credentials not found in native keychain; exit 1")
    files = written(
        tmp_path / "config.json",
        auths={"registry.example": {}, "both.example": auth("file"), "none.example": auth("file")},
        credHelpers={
            "registry.example": "echo",
            "token.example": "token",
            "both.example": "echo",
            "none.example": "none",
        },
        credsStore="echo",
    )
    assert await find_credentials(files, "registry.example/app") == Credentials(
        "registry.example", "s3cret"
    )
    assert await find_credentials(files, "token.example/a") == Credentials(identity_token="it")
    assert await find_credentials(files, "both.example/a") == Credentials("both.example", "s3cret")
    assert await find_credentials(files, "store.example/a/b") == Credentials(
        "store.example", "s3cret"
    )
    none = await find_credentials(files, "none.example/a")
    assert none is not None
    assert none.username == "file"


@pytest.mark.parametrize(
    "script, words",
    [
        ("echo s3cret; exit 3", "exit code 3"),
        ("echo s3cret", "exit code 0"),
        ('echo \'{"Username": 1, "Secret": "s3cret"}\'', "exit code 0"),
        ("yes s3cret", "did not give"),
        ("sleep 1000 & echo s3cret; wait", "did not answer"),
    ],
)
async def test_a_failing_helper_is_named_and_its_output_is_not_shown(
    helpers: Path, script: str, words: str
) -> None:
    helper(helpers, "bad", script)
    leaks = Leaks()
    with pytest.raises(ImageUnavailable, match=words) as caught:
        await from_helper("bad", "registry.example", timeout=0.5)
    assert "s3cret" not in str(caught.value)
    await leaks.settle()


async def test_a_missing_or_misnamed_helper_is_refused(helpers: Path) -> None:
    with pytest.raises(ImageUnavailable, match="docker-credential-absent cannot be started"):
        await from_helper("absent", "registry.example")
    for name in ("../x", "/bin/sh", "a;b", "a b", "-x", "", "a\n"):
        with pytest.raises(SettingsInvalid):
            await from_helper(name, "registry.example")


async def test_a_cancelled_helper_is_ended(helpers: Path, tmp_path: Path) -> None:
    helper(helpers, "slow", f"touch {tmp_path}/started; sleep 1000")
    leaks = Leaks()
    asking = asyncio.create_task(from_helper("slow", "registry.example"))
    await until((tmp_path / "started").exists)
    await cancelled(asking)
    await leaks.settle()
