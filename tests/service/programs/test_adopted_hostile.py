# SPDX-License-Identifier: Apache-2.0
"""Guests that list jobs which the server never started, or do not answer."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest
from tests.service.lasting import LIMIT, copy, guest_of, start
from tests.service.snapshotting import snapshots
from tests.service.world import OWNER, Guest, settle

from waggle.domain.environment import State
from waggle.domain.errors import GuestLost, NotFound
from waggle.domain.programs.guest_job import FoundJob
from waggle.domain.programs.job import JobKind
from waggle.service import programs as programs_module
from waggle.service.programs import jobs as jobs_module
from waggle.service.programs.notes import MAX_NUMBER, Note
from waggle.service.programs.starting import MAX_RUNNING

pytestmark = pytest.mark.anyio


def found(number: object, at: int, **wrong: object) -> FoundJob:
    """Return a running job of a guest, whose note may be wrong."""
    note = Note(1, JobKind.EXECUTE, "x", LIMIT, "python3").encode()
    values = {**json.loads(note), "number": number, **wrong}
    return FoundJob(
        id=f"{at:08x}-0000-4000-8000-00000000000b",
        is_running=True,
        exit_code=None,
        signal=None,
        elapsed=1.0,
        printed=(0, 0, 0),
        note=json.dumps(values).encode(),
    )


HOSTILE: tuple[tuple[object, dict[str, object]], ...] = (
    (0, {}),
    (-1, {}),
    (MAX_NUMBER + 1, {}),
    (1.5, {}),
    (True, {}),
    ("2", {}),
    (None, {}),
    (2, {"kind": "rm"}),
    (2, {"kind": 5}),
    (2, {"user": "nobody"}),
    (2, {"summary": "x" * 2_000}),
    (2, {"summary": ["x"]}),
    (2, {"limit": -1}),
    (2, {"limit": 1e300}),
    (2, {"limit": "nan"}),
    (2, {"program": {}}),
)


async def adopted(found_jobs: tuple[FoundJob, ...]) -> list[int]:
    """Return the numbers of the jobs that a fork takes over from a guest with these."""
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        here.host.prepare = lambda guest: setattr(guest, "found", found_jobs)
        made = await copy(around, origin, "fork")
        await settle()
        briefs = await jobs.list(made, owner=OWNER)
        assert (await start(jobs, origin, "echo")).number == 1
        return [brief.number for brief in briefs]


@pytest.mark.parametrize("number, wrong", HOSTILE)
async def test_a_hostile_note_is_skipped_alone(number: object, wrong: dict[str, object]) -> None:
    jobs = (found(number, 1, **wrong), found(7, 2))
    assert await adopted(jobs) == [7]


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", b"\xff" * 50, b"[" * 1_999, b"9" * 1_999])
async def test_garbage_in_place_of_a_note_is_skipped(note: bytes) -> None:
    assert await adopted((replace(found(1, 1), note=note), found(7, 2))) == [7]


async def test_jobs_with_the_number_of_another_are_skipped() -> None:
    assert await adopted((found(7, 1), found(7, 2), found(8, 3))) == [7, 8]


async def test_a_text_of_a_note_is_cleaned() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        evil = found(1, 1, summary="\x1b[31m\u202e\ud800")
        here.host.prepare = lambda guest: setattr(guest, "found", (evil,))
        made = await copy(around, origin, "fork")
        assert (await jobs.list(made, owner=OWNER))[0].summary == "\ufffd[31m\ufffd\ufffd"


async def test_a_guest_may_list_many_jobs_that_run_and_all_end() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        many = tuple(found(number, number) for number in range(1, 129))
        here.host.prepare = lambda guest: setattr(guest, "found", many)
        made = await copy(around, origin, "fork")
        await settle()
        assert len(await jobs.list(made, owner=OWNER)) == MAX_RUNNING
        await here.destroy(made).result()
        await settle()
        with pytest.raises(NotFound):
            (await jobs.list(made, owner=OWNER))


async def test_a_guest_that_does_not_list_delays_a_copy_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs_module, "ADOPT_SECONDS", 0.05)
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        await start(jobs, origin)

        def silent(guest: Guest) -> None:
            guest.listing_jobs = anyio.Event()

        here.host.prepare = silent
        made = await copy(around, origin, "fork")
        assert (await jobs.list(made, owner=OWNER)) == ()
        assert here.get(made).state is State.RUNNING
        assert (await start(jobs, made, "echo")).number == 1
        assert [one.number for one in (await jobs.list(origin, owner=OWNER))] == [1]


async def test_a_guest_that_does_not_send_what_it_has_delays_readers_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs_module, "CATCH_UP_SECONDS", 0.05)
    async with snapshots() as around:
        jobs = around.world.jobs()
        origin = (await around.world.created()).id
        await start(jobs, origin)
        never = anyio.Event()
        around.world.host.prepare = lambda guest: setattr(guest, "follow_until", never)
        made = await copy(around, origin, "fork")
        with anyio.fail_after(10):
            job = await jobs.get(made, 1, owner=OWNER)
        assert (job.is_running, job.view().stdout.text()) == (True, "")
        monkeypatch.setattr(programs_module, "CATCH_UP_SECONDS", 3600.0)
        with anyio.fail_after(10):
            await jobs.get(made, 1, owner=OWNER)


@pytest.mark.parametrize("error", [GuestLost("gone"), RuntimeError("a bug")])
async def test_a_list_that_fails_loses_nothing_else(error: Exception) -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id

        def broken(guest: Guest) -> None:
            guest.file_error = error

        here.host.prepare = broken
        made = await copy(around, origin, "fork")
        guest_of(here, made).file_error = None
        assert here.get(made).state is State.RUNNING
        assert (await start(jobs, made, "echo")).number == 1
