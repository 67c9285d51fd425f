# SPDX-License-Identifier: Apache-2.0
"""`waggle env network ENV --log`: the last decisions about connections, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread
import pytest
from tests.cli.beside import Commands
from tests.support.server import client, created, serving

from waggle.cli.env.network_log import network_log
from waggle.domain.errors import NotFound
from waggle.domain.network import parse_network
from waggle.domain.network.decisions import ALLOWED, Decision
from waggle.domain.network.use import NetworkUse, Remembered

pytestmark = pytest.mark.anyio
USE = NetworkUse(
    parse_network("example.net"),
    connections=3,
    refused=7,
    sent=1_234,
    received=56_789,
    allowed=(
        Remembered(Decision("example.net", 443, ALLOWED, "", "example.net", "8.8.8.8"), 3, 5.0),
    ),
    denied=(Remembered(Decision("2001:db8::1", 443, "no-rule", "no rule allows it"), 7, 2.0),),
)


async def test_the_decisions_are_a_table_with_totals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving() as rig, client(rig) as connected:
        monkeypatch.setenv("WAGGLE_LISTEN_ADDR", rig.url.removeprefix("http://"))
        made = await created(connected)
        await shown(made, as_json=False)
        assert "No connection since" in "".join(capsys.readouterr())
        rig.host.only.network = USE
        await shown(made, as_json=False)
        out, err = capsys.readouterr()
        first, second = out.splitlines()[-2:]  # after the server's own log
        assert first.split() == [
            "2026-03-04T05:06:02Z",
            "allowed",
            "example.net:443",
            "3",
            "0",
            "0",
            "example.net",
        ]
        assert second.split()[1:4] == ["no-rule", "[2001:db8::1]:443", "7"]
        assert second.rstrip().endswith("no rule allows it")
        assert "network example.net: 3 connections, 7 refused, 1234 bytes sent, 56789" in err


async def test_they_are_json_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving() as rig, client(rig) as connected:
        monkeypatch.setenv("WAGGLE_LISTEN_ADDR", rig.url.removeprefix("http://"))
        made = await created(connected)
        rig.host.only.network = USE
        await shown(made[:8], as_json=True)
        out = capsys.readouterr().out
        said = json.loads(out[out.index("{\n") :])  # after the server's own log
        assert (said["environment_id"], said["refused"]) == (made, 7)
        assert [one["outcome"] for one in said["decisions"]] == ["allowed", "no-rule"]
        with pytest.raises(NotFound):
            await shown("nonesuch", as_json=True)


async def test_the_command_shows_them(tmp_path: Path) -> None:
    async with serving() as rig, client(rig) as connected:
        made = await created(connected)
        rig.host.only.network = USE
        commands = Commands(rig, tmp_path)
        status, out, _ = await commands("env", "network", made, "--log", "--json")
        assert (status, json.loads(out)["refused"]) == (0, 7)
        status, out, _ = await commands("env", "network", made, "--log")
        assert (status, out.splitlines()[1].split()[2]) == (0, "example.net:443")


async def shown(environment: str, *, as_json: bool) -> None:
    await anyio.to_thread.run_sync(lambda: network_log(environment, as_json=as_json))
