# SPDX-License-Identifier: Apache-2.0
"""How a run ends, with a scripted program in place of QEMU."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from lab.events import Event, Line
from lab.machine import Disks
from tests.support.leaks import Leaks
from tests.support.waiting import cancelled

from lab import outer

pytestmark = pytest.mark.anyio
PRETENDER = """\
#!{python} -I
import re, socket, sys, time
fd = int(re.search(r"id=progress,fd=(\\d+)", " ".join(sys.argv)).group(1))
out = socket.socket(fileno=fd)
for word in {said!r}:
    if word == "hang":
        time.sleep(1000)
    out.sendall(word.encode() + b"\\n")
print("qemu: last words", flush=True)
sys.exit({code})
"""
UP = json.dumps({"event": "up", "seconds": 1})
START = json.dumps({"event": "start", "job": "a", "seconds": 0.0})
LINE = json.dumps({"event": "line", "text": "hello"})
END = json.dumps({"event": "end", "job": "a", "code": 0, "seconds": 1})
BEAT = json.dumps({"event": "beat"})
OVER = json.dumps({"event": "over"})


@pytest.fixture(autouse=True)
async def leaks(anyio_backend: str) -> AsyncGenerator[None]:
    watch = Leaks()
    yield
    await watch.settle()


def machine(tmp_path: Path, *said: str, code: int = 0) -> outer.Machine:
    qemu = tmp_path / "qemu"
    qemu.write_text(PRETENDER.format(python=sys.executable, said=said, code=code))
    qemu.chmod(0o755)
    nothing = tmp_path / "nothing"
    disks = Disks(nothing, nothing, nothing, tmp_path / "report.tar")
    return outer.Machine(str(qemu), nothing, nothing, disks, tmp_path)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for a machine that hangs and would not end."""
    monkeypatch.setattr(outer, "END_SECONDS", 0.1)


async def test_a_run_ends_without_a_problem_when_all_jobs_are_over(tmp_path: Path) -> None:
    seen: list[Event] = []
    outcome = await outer.run(machine(tmp_path, UP, START, LINE, END, OVER), 60.0, seen.append)
    assert outcome.problem == ""
    assert outcome.progress.over
    assert [ended.job for ended in outcome.progress.ended] == ["a"]
    assert Line("hello") in seen
    assert (tmp_path / "report.tar").stat().st_size == outer.REPORT_BYTES


async def test_nonsense_between_events_is_ignored(tmp_path: Path) -> None:
    outcome = await outer.run(machine(tmp_path, "nonsense", UP, OVER), 60.0, lambda _: None)
    assert outcome.problem == ""


async def test_a_machine_that_ends_too_early_is_reported(tmp_path: Path) -> None:
    made = machine(tmp_path, UP, START, code=7)
    outcome = await outer.run(made, 60.0, lambda _: None)
    assert outcome.problem == "the outer machine ended by itself (7)"
    assert outcome.broke
    assert "qemu: last words" in outer.last_words(made)


async def test_a_machine_that_never_comes_up_is_abandoned(tmp_path: Path, hasty: None) -> None:
    outcome = await outer.run(machine(tmp_path, "hang"), 0.5, lambda _: None)
    assert outcome.problem == "the outer machine did not come up in time"


async def test_a_job_that_hangs_is_abandoned_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setattr(outer, "GRACE_SECONDS", 0.2)
    outcome = await outer.run(machine(tmp_path, UP, START, "hang"), 60.0, lambda _: None)
    assert outcome.problem == "the job a was not over in time"


async def test_a_silent_machine_is_reported_as_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setattr(outer, "SILENCE_SECONDS", 0.2)
    outcome = await outer.run(machine(tmp_path, UP, START, BEAT, "hang"), 60.0, lambda _: None)
    assert "fell silent" in outcome.problem
    assert outcome.broke


async def test_all_jobs_together_have_a_deadline(tmp_path: Path, hasty: None) -> None:
    outcome = await outer.run(machine(tmp_path, UP, START, END, "hang"), 1.0, lambda _: None)
    assert outcome.problem.endswith("in time")


async def test_cancelling_ends_qemu(tmp_path: Path) -> None:
    up = asyncio.Event()
    work = outer.run(machine(tmp_path, UP, "hang"), 60.0, lambda _: up.set())
    task = asyncio.ensure_future(work)
    await up.wait()
    await cancelled(task)
