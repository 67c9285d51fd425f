# SPDX-License-Identifier: Apache-2.0
"""Random histories of jobs: pauses, copies, rollbacks, kills, and servers that follow each other.

The model knows what each program has printed and how it ended. No history may lose or repeat a
byte, change an end or report it twice, give a number twice, or let a call wait in a paused
environment.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from tests.service import world
from tests.service.histories import (
    KILLED,
    MOST,
    MOST_RUNNING,
    MOST_SNAPSHOTS,
    RUNNING,
    Histories,
    Known,
    Place,
)
from tests.service.world import OWNER

from waggle.domain.errors import JobEnded, JobNotFound
from waggle.domain.programs import Command
from waggle.domain.programs.guest_job import Attributes
from waggle.domain.programs.job import JobKind, JobState, StreamName
from waggle.service.environments.creating import CopyRequest
from waggle.service.programs import Job, What


class Machine(Histories):
    """The rules."""

    # Steps

    @precondition(lambda self: len(self.places) < MOST)
    @rule()
    def create(self) -> None:
        assert self.here is not None
        made = self.loop(self.here.created())
        self.places[made.id] = Place(made.id)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        place = self.place(data)
        if sum(job.end == RUNNING for job in place.jobs.values()) >= MOST_RUNNING:
            return
        key = str(next(self.counter))
        command = Command(("program",), timeout=600.0, env={"KEY": key})
        what = What(JobKind.EXECUTE, key, attributes=Attributes(keeps_input=True))
        job = self.loop(self.jobs.start(place.id, command, what, owner=OWNER))
        assert job.number > place.last, "a number that was given before"
        place.jobs[job.number] = Known(key)
        place.last = job.number
        self.runs(place)

    @precondition(lambda self: self.going(paused=False))
    @rule(data=st.data(), size=st.integers(0, 40))
    def prints(self, data: st.DataObject, size: int) -> None:
        place, number = data.draw(st.sampled_from(self.going(paused=False)))
        job = place.jobs[number]
        text = f"{next(self.counter)}{'.' * size}\n".encode()
        job.printed += text
        self.loop(self._print(place, job, text))

    async def _print(self, place: Place, job: Known, text: bytes) -> None:
        self._feed(self.kept(place, job), text)

    @precondition(lambda self: any(place.paused for place, _ in self.going(paused=True)))
    @rule(data=st.data())
    def had_printed(self, data: st.DataObject) -> None:
        """A program printed when it was not followed any more, and its machine not yet stopped."""
        going = [(place, n) for place, n in self.going(paused=True) if place.paused]
        place, number = data.draw(st.sampled_from(going))
        text = f"{next(self.counter)} unseen\n".encode()
        place.jobs[number].printed += text
        self.kept(place, place.jobs[number]).printed[0] += text

    @precondition(lambda self: self.any_job())
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        place, number = data.draw(st.sampled_from(self.any_job()))
        text = f"{next(self.counter)} typed\n"
        job = self.loop(self.jobs.get(place.id, number, owner=OWNER))
        self.runs(place, only_if=not place.is_told)
        if place.jobs[number].end != RUNNING:
            with pytest.raises(JobEnded):
                self.loop(self.jobs.control.write(job, text, close=False, owner=OWNER))
            return
        self.loop(self.jobs.control.write(job, text, close=False, owner=OWNER))
        place.jobs[number].printed += text.encode()
        self.runs(place)

    @precondition(lambda self: self.going(paused=False))
    @rule(data=st.data(), code=st.integers(0, 3))
    def ends_itself(self, data: st.DataObject, code: int) -> None:
        place, number = data.draw(st.sampled_from(self.going(paused=False)))
        job = place.jobs[number]
        job.end = str(code)
        self.loop(self._end(place, job, code))

    async def _end(self, place: Place, job: Known, code: int) -> None:
        self.to_end[place.id, job.key].set_result(code)

    @precondition(lambda self: self.any_job())
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        place, number = data.draw(st.sampled_from(self.any_job()))
        job = self.loop(self.jobs.get(place.id, number, owner=OWNER))
        self.runs(place, only_if=not place.is_told)
        was_running = place.jobs[number].end == RUNNING
        self.loop(self.jobs.kill(job, owner=OWNER))
        if was_running:
            place.jobs[number].end = KILLED
            self.runs(place)

    @precondition(lambda self: self.going(paused=True))
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        place, number = data.draw(st.sampled_from(self.going(paused=True)))
        job = self.loop(self.jobs.get(place.id, number, owner=OWNER))
        self.runs(place, only_if=not place.is_told)
        waiting = self.loop(self._wait(job))
        assert waiting.is_done == bool(place.paused)
        if not waiting.is_done:
            self.waiting.append((job, waiting))

    async def _wait(self, job: Job) -> world.Job[None]:
        assert self.here is not None
        return self.here.start(job.wait(600.0))

    @precondition(lambda self: self.places)
    @rule(data=st.data(), to_disk=st.booleans())
    def pause(self, data: st.DataObject, to_disk: bool) -> None:
        self._pause(self.place(data), to_disk=to_disk)

    def _pause(self, place: Place, *, to_disk: bool) -> None:
        assert self.here is not None
        self.loop(self.here.service.pause(place.id, owner=OWNER, to_disk=to_disk))
        if place.paused != "disk":
            place.paused = "disk" if to_disk else "memory"

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        assert self.here is not None
        place = self.place(data)
        self.loop(self.here.service.resume(place.id, owner=OWNER))
        self.runs(place)

    def runs(self, place: Place, *, only_if: bool = True) -> None:
        """Note that a call has resumed it."""
        if only_if:
            place.paused, place.is_told = "", True

    @precondition(lambda self: self.places and len(self.places) < MOST)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        place = self.place(data)
        (made,) = self.loop(self.copies.fork(place.id, 1, owner=OWNER))
        self.runs(place)
        self._copied(made.id, place.jobs)

    def _copied(self, environment: str, jobs: dict[int, Known]) -> None:
        self.places[environment] = Place(environment, deepcopy(jobs), max(jobs, default=0))

    @precondition(lambda self: self.places and len(self.snapshots) < MOST_SNAPSHOTS)
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        place = self.place(data)
        kept = self.loop(self.copies.take(place.id, owner=OWNER))
        self.runs(place)
        self.snapshots[kept.id] = place.id, deepcopy(place.jobs)

    @precondition(lambda self: self.snapshots and len(self.places) < MOST)
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.snapshots)))
        made = self.loop(self.copies.create(chosen, CopyRequest(), owner=OWNER))
        self._copied(made.id, self.snapshots[chosen][1])

    @precondition(lambda self: any(origin in self.places for origin, _ in self.snapshots.values()))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        usable = [name for name, (origin, _) in self.snapshots.items() if origin in self.places]
        chosen = data.draw(st.sampled_from(sorted(usable)))
        origin, jobs = self.snapshots[chosen]
        place = self.places[origin]
        lost = self.jobs.newest(origin, 100, owner=OWNER)
        self.loop(self.copies.roll_back(origin, chosen, owner=OWNER))
        assert not any(job.is_running for job in lost)
        place.jobs = deepcopy(jobs)
        self.runs(place)

    @rule(after_pauses=st.booleans())
    def server_is_killed(self, after_pauses: bool) -> None:
        for place in self.places.values() if after_pauses else ():
            self._pause(place, to_disk=True)
        self.loop(self._restart())
        self.places = {name: place for name, place in self.places.items() if place.paused == "disk"}
        for place in self.places.values():
            place.is_told = False
        self.waiting.clear()

    async def _restart(self) -> None:
        assert self.here is not None
        for guest in self.here.host.guests.values():
            if not guest.freed:  # machines die with their server
                guest.detached.set()
                guest.freed = 1
        self.stop.set()
        await self.owner
        await self._start()

    # What holds

    def view(self, place: Place, job: Job) -> tuple[bytes, str]:
        stream = job.streams[StreamName.STDOUT]
        brief = job.brief()
        ends: dict[JobState, Any] = {
            JobState.RUNNING: RUNNING,
            JobState.EXITED: str(brief.exit_code),
            JobState.KILLED: KILLED,
            JobState.SIGNALED: KILLED,
        }
        assert brief.state in ends, job.view().error
        assert brief.stdout_bytes == stream.total or job.is_unread
        return stream.read(0, stream.total), ends[brief.state]

    @invariant()
    def every_job_is_as_its_program_left_it(self) -> None:
        for place in self.places.values():
            if not place.is_told:
                continue
            jobs = {job.number: job for job in self.jobs.newest(place.id, 100, owner=OWNER)}
            assert jobs.keys() == place.jobs.keys()
            for number, known in place.jobs.items():
                printed, end = self.view(place, jobs[number])
                assert end == known.end
                assert jobs[number].is_paused == (end == RUNNING and bool(place.paused))
                if jobs[number].is_unread:
                    assert jobs[number].printed(StreamName.STDOUT) == len(known.printed)
                elif place.paused:
                    assert known.printed.startswith(printed)
                else:
                    assert printed == known.printed

    @precondition(lambda self: self.any_job())
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """Read a job as a client does, from its guest if need be."""
        place, number = data.draw(st.sampled_from(self.any_job()))
        is_unread = not place.is_told
        if not is_unread:
            is_unread = self.jobs.known(place.id, number, owner=OWNER).is_unread
        job = self.loop(self.jobs.get(place.id, number, owner=OWNER))
        self.runs(place, only_if=is_unread)
        assert not job.is_unread
        with pytest.raises(JobNotFound):
            self.loop(self.jobs.get(place.id, place.last + 1, owner=OWNER))

    @invariant()
    def an_end_is_reported_once(self) -> None:
        assert set(self.ends.values()) <= {1}

    @invariant()
    def nobody_waits_for_what_has_ended_or_is_paused(self) -> None:
        for job, waiting in self.waiting:
            assert waiting.error is None
            assert waiting.is_done or (job.is_running and not job.is_paused)

    @invariant()
    def the_server_lives(self) -> None:
        assert not self.owner.done()


TestJobs = Machine.TestCase
TestJobs.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
