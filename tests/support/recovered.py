# SPDX-License-Identifier: Apache-2.0
"""Checks a server started after `kill -9` against a ledger of `workload`.

`recover` fails if anything exists that should not, or does not exist but should.
"""

from __future__ import annotations

import random
import sqlite3
import sys
from pathlib import Path

from tests.support.waggle_process import Waggle
from tests.support.workload import Agent, Caller, Known, Ledger, State


def strays(server: Waggle) -> dict[str, object]:
    """Return the machines and mounts while none should run; empty if there are none.

    Directories are left to `recover`: a killed server leaves some to the next one.
    """
    found: dict[str, object] = {
        **{name: what for name, what in server.remains().items() if name != "directories"},
        "processes": _processes(server),
        "mounts": [
            line for line in _read("/proc/self/mounts").splitlines() if _is_of(server, line)
        ],
    }
    return {name: what for name, what in found.items() if what}


def _is_of(server: Waggle, text: str) -> bool:
    return str(server.directory) in text


def _processes(server: Waggle) -> list[str]:
    """List processes other than the server whose arguments or variables name its directory."""
    own = {server.process.pid}
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own:
            texts = _read(str(entry / "cmdline")), _read(str(entry / "environ"))
            if any(_is_of(server, text) for text in texts):
                found.append(f"{entry.name} {texts[0][:200]}")
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "replace").replace("\0", " ")
    except OSError:
        return ""


def _on_record(server: Waggle) -> set[str]:
    """Return the environments that the state database does not call destroyed."""
    with sqlite3.connect(f"file:{server.data}/state.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT id FROM environments WHERE state != 'destroyed'").fetchall()
    database.close()
    return {str(row[0]) for row in rows}


async def recover(server: Waggle, ledger: Ledger, call: Caller) -> None:
    """Compare the server's state with the ledger, then reduce the ledger to that state."""
    in_work = sorted(str(path) for path in server.data.rglob(".tmp-*"))
    assert in_work == []
    listed = (await call("list_environments")).get("environments", [])
    there = {str(environment["environment_id"]) for environment in listed}
    assert {environment["status"] for environment in listed} <= {"paused"}, listed
    _compare("environments", there, ledger.environments)
    assert there == set(server.directories())
    assert there == _on_record(server)
    for identity in there:
        files = server.data / "environments" / identity
        assert [path.name for path in files.iterdir()] == ["frozen"], identity

    shelf = (await call("list_snapshots")).get("snapshots", [])
    kept = {str(entry["snapshot_id"]): str(entry["environment_id"]) for entry in shelf}
    for identity in kept.keys() - ledger.snapshots.keys():
        origin = kept[identity]
        assert origin in ledger.taking, f"snapshot {identity} was never asked for"
        ledger.snapshot(identity, ledger.taking.pop(origin)).state = State.UNSURE
    _compare("snapshots", {*kept}, ledger.snapshots)
    places = server.data / "snapshots"
    assert {*kept} == ({path.name for path in places.iterdir()} if places.exists() else set())
    ledger.taking.clear()


def _compare(what: str, there: set[str], ledger: dict[str, Known]) -> None:
    must = {known.id for known in ledger.values() if known.state is State.ON_DISK}
    may = {known.id for known in ledger.values() if known.state is State.UNSURE}
    assert must <= there, f"lost {what}: {must - there}"
    assert there <= must | may, f"{what} came back: {there - must - may}"
    for identity in {*ledger} - there:
        del ledger[identity]


async def hand_over(agents: list[Agent], ledger: Ledger, rng: random.Random, share: float) -> None:
    """Give everything to agents, which use all unsure records and a share of the rest."""
    for known in ledger.environments.values():
        agent = rng.choice(agents)
        agent.mine.append(known)
        if known.state is State.UNSURE or rng.random() < share:
            await agent.check(known)
    for known in ledger.snapshots.values():
        agent = rng.choice(agents)
        agent.kept.append(known)
        if known.state is State.UNSURE or rng.random() < share:
            await agent.copy(known)
            await agent.destroy(agent.mine[-1])
            known.state = State.ON_DISK


def report(line: str) -> None:
    """Print a line of a long run, for whoever watches it."""
    sys.stderr.write(f"{line}\n")
