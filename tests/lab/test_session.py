# SPDX-License-Identifier: Apache-2.0
"""Breakdowns of the outer machine, with a script in place of QEMU."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
from lab.display import Display
from lab.jobs import Job
from lab.lane import ATTEMPTS, Result
from lab.session import Made, Wish, held, run
from lab.store import Store

from lab import base, parts, session
from waggle.config import load

pytestmark = pytest.mark.anyio
QEMU = """\
#!{python} -I
import json, re, socket, sys, tarfile
from pathlib import Path
words = " ".join(sys.argv)
out = socket.socket(fileno=int(re.search(r"id=progress,fd=(\\d+)", words).group(1)))
Path(re.search(r"id=console,path=(\\S+)", words).group(1)).write_text("Kernel panic\\n")
with tarfile.open(re.search(r"file=(\\S+)/project.tar", words).group(1) + "/project.tar") as tar:
    jobs = [job["name"] for job in json.load(tar.extractfile("jobs.json"))]
script = Path({script!r})
*rest, fate = script.read_text().split()
script.write_text(" ".join(rest) or fate)
out.sendall(json.dumps({{"event": "up", "seconds": 1}}).encode() + b"\\n")
for name in jobs:
    if name == fate:
        sys.exit(0)
    code = 1 if name == "bad" else 0
    end = {{"event": "end", "job": name, "code": code, "seconds": 1}}
    out.sendall(json.dumps(end).encode() + b"\\n")
out.sendall(b'{{"event": "over"}}\\n')
"""


class Bench:
    """`fates` are used from the end: the job at which that outer machine dies, or `none`."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp = tmp_path
        self.fates = tmp_path / "fates"
        qemu = tmp_path / "qemu"
        qemu.write_text(QEMU.format(python=sys.executable, script=str(self.fates)))
        qemu.chmod(0o755)
        made = Made(tmp_path / "base-x", tmp_path / "libkrun-1.19.7-x", tmp_path / "parts-x")
        for directory, names in ((made.base, (base.DISK,)), (made.parts, (parts.DISK,))):
            directory.mkdir()
            for name in names:
                (directory / name).touch()

        async def prepared(*_: object) -> Made:
            return made

        monkeypatch.setattr(session, "_prepared", prepared)

        def find(_: str) -> str:
            return str(qemu)

        monkeypatch.setattr(session, "find_program", find)

    async def run(self, fates: str, *jobs: str, machines: int = 1) -> Result:
        self.fates.write_text(fates)
        described = [Job(name, "true", 5.0) for name in jobs]
        wish = Wish(described, self.tmp / "reports", machines=machines)
        store, display = Store(self.tmp / "store"), Display(io.StringIO())
        result = await run(load(), store, wish, display)
        assert list((self.tmp / "store/runs").iterdir()) == []
        return result


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def test_a_run_without_a_breakdown_is_good(bench: Bench) -> None:
    result = await bench.run("none", "a", "b")
    assert result.good
    assert result.codes == {"a": 0, "b": 0}


async def test_unfinished_jobs_of_a_broken_machine_run_again(bench: Bench) -> None:
    result = await bench.run("none b", "a", "b")
    assert result.good
    assert result.codes == {"a": 0, "b": 0}
    assert "THE OUTER MACHINE BROKE DOWN" in result.story
    assert "Kernel panic" in result.story
    assert sorted(path.name for path in (bench.tmp / "reports").iterdir()) == [
        "outer-console-machine-1-1.log",
        "outer-console-machine-1-2.log",
    ]


def test_what_machines_boot_from_outlives_the_store(tmp_path: Path) -> None:
    """Labs of other branches displace it there."""
    store, run_of = tmp_path / "store", tmp_path / "run"
    made = Made(store / "base-x", store / "libkrun-1.19.7-x", store / "parts-x")
    for directory, name in ((made.base, base.DISK), (made.parts, parts.DISK)):
        directory.mkdir(parents=True)
        (directory / name).write_text(name)
    there = held(made, run_of)
    shutil.rmtree(store)
    assert (there.base / base.DISK).read_text() == base.DISK
    assert (there.parts / parts.DISK).read_text() == parts.DISK
    assert there.libkrun_version == "1.19.7"


async def test_two_machines_share_the_jobs(bench: Bench) -> None:
    result = await bench.run("none", "a", "b", "c", machines=2)
    assert result.good
    assert result.codes == {"a": 0, "b": 0, "c": 0}
    assert sorted(path.name for path in (bench.tmp / "reports").iterdir()) == [
        "outer-console-machine-1-1.log",
        "outer-console-machine-2-1.log",
    ]


async def test_a_broken_machine_does_not_affect_the_other(bench: Bench) -> None:
    result = await bench.run("a", "a", "b", machines=2)
    assert not result.good
    assert result.codes == {"b": 0}
    assert result.broke


async def test_a_failure_before_a_breakdown_stays_a_failure(bench: Bench) -> None:
    result = await bench.run("none b", "bad", "b")
    assert not result.good
    assert not result.broke
    assert result.codes == {"bad": 1, "b": 0}


async def test_a_failure_after_a_breakdown_is_a_failure(bench: Bench) -> None:
    assert not (await bench.run("none a", "a", "bad")).good


async def test_a_machine_that_always_breaks_is_a_failure(bench: Bench) -> None:
    result = await bench.run("a", "a")
    assert not result.good
    assert result.broke
    assert result.story.count("ended by itself") == ATTEMPTS
