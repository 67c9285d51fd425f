# SPDX-License-Identifier: Apache-2.0
"""Environments with programs that live: they count, flood, hold variables and run a long cell.

A `Living` knows what its programs have printed and checks it after pauses, forks and kills of the
server: no byte is lost, repeated or changed, within the bound of `KEEP` bytes and a tail.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.support.waggle_client import until
from tests.support.workload import Caller, Known, Ledger, State, changing

KEEP = 1 << 20
"""Bytes kept of the beginning of a stream, with WAGGLE_OUTPUT_KEEP_MB=1."""
TAIL = 128 << 10
PAGE = 80_000
"""Bytes of one call of read_job."""
LINES = 250_000
FLOOD = "".join(f"{number}\n" for number in range(1, LINES + 1))
ENOUGH = "/tmp/enough"
COUNT = f"i=0; while [ ! -e {ENOUGH} ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo end"
CELLS = {
    "shell": (COUNT, "n={next}", "echo $n"),
    "python": (
        "import os, time\ni = 0\n"
        f"while not os.path.exists({ENOUGH!r}):\n"
        "    i += 1\n    print(i, flush=True)\n    time.sleep(0.1)\n"
        "print('end')",
        "n = {next}",
        "print(n)",
    ),
}
"""Of each runtime: the code that counts, and what sets and shows a variable."""
SECONDS = 120.0


def counted(text: str, *, ended: bool = False) -> int:
    """Check what a counting program printed, and return how far it is."""
    whole, _, rest = text.rpartition("\n")
    lines = whole.splitlines()
    if ended:
        assert lines.pop() == "end"
    assert lines == [str(number) for number in range(1, len(lines) + 1)], text[-500:]
    assert str(len(lines) + 1).startswith(rest), rest
    return len(lines)


@dataclass(slots=True)
class Tally:
    """What was compared: `jobs`, `bytes`, and how often each thing was done."""

    jobs: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    bytes: int = 0
    deeds: Counter[str] = field(default_factory=Counter[str])


@dataclass(slots=True)
class Living:
    """One environment. `counts` maps the jobs that count to how far they were; `value` is `n`."""

    known: Known
    runtime: str
    tally: Tally
    counts: dict[int, int] = field(default_factory=dict[int, int])
    floods: list[int] = field(default_factory=list[int])
    value: int = 0

    @property
    def id(self) -> str:
        return self.known.id

    @classmethod
    async def begin(
        cls, call: Caller, ledger: Ledger, runtime: str, tally: Tally, **how: object
    ) -> Living:
        """Create one and start all its programs."""
        made = await call("create_environment", runtime=runtime, **how)
        self = cls(ledger.environment(made["environment_id"], set()), runtime, tally)
        count, _, _ = CELLS[runtime]
        here = {"environment_id": self.id, "background": True}
        for started in (
            await call("run_command", **here, command=COUNT),
            await call("execute", **here, code=count, context="busy"),
        ):
            self.counts[started["job_id"]] = 0
        await self.cell(call)
        await self.goes_on(call)
        return self

    async def cell(self, call: Caller) -> None:
        """Check the variable of the live interpreter, and count it up."""
        _, setting, showing = CELLS[self.runtime]
        for code in (showing, setting.format(next=self.value + 1)):
            if code is showing and not self.value:
                continue
            done = await call("execute", environment_id=self.id, code=code, context="main")
            assert done["exit_code"] == 0, done
            if code is showing:
                assert done["stdout"] == f"{self.value}\n", (self.value, done)
        self.value += 1

    async def read(self, call: Caller, job: int, begin: int = 0, end: int | None = None) -> str:
        """Return what a job printed from `begin` to `end`, or so far."""
        text = ""
        while end is None or begin + len(text) < end:
            offset = begin + len(text)
            limit = PAGE if end is None else min(PAGE, end - offset)
            page = await call(
                "read_job", environment_id=self.id, job_id=job, offset=offset, limit=limit
            )
            text += page.get("content", "")
            if page.get("next_offset") is None:
                break
        self.tally.jobs.add((self.id, job))
        self.tally.bytes += len(text)
        return text

    async def goes_on(self, call: Caller) -> None:
        """Check that all that counts has lost nothing, and counts on."""
        for job, before in self.counts.items():
            now = counted(await self.read(call, job))
            assert now >= before, f"job {job}: {before} lines were printed, {now} are left"
            self.counts[job] = now

            async def is_further(job: int = job, now: int = now) -> bool:
                self.counts[job] = counted(await self.read(call, job))
                return self.counts[job] > now

            await until(is_further, SECONDS, f"job {job} of {self.runtime} goes on")

    async def flood(self, call: Caller) -> None:
        """Start a program that prints more than is kept, and wait for none of it."""
        how = {"command": f"seq 1 {LINES}", "background": True}
        started = await call("run_command", environment_id=self.id, **how)
        self.floods.append(started["job_id"])

    async def flooded(self, call: Caller) -> None:
        """Check that the programs that flood have ended, and what is kept of each."""
        for job in self.floods:
            where = {"environment_id": self.id, "job_id": job}
            ended = await call("wait_job", **where, wait_seconds=SECONDS, max_output=1_000)
            assert (ended["status"], ended["exit_code"]) == ("exited", 0), ended
            size = (await call("read_job", **where, offset=-1, limit=1))["size"]
            assert size == len(FLOOD), f"job {job}: {size} of {len(FLOOD)} bytes"
            assert await self.read(call, job, 0, KEEP) == FLOOD[:KEEP]
            assert await self.read(call, job, size - TAIL, size) == FLOOD[-TAIL:]
        self.floods.clear()

    async def check(self, call: Caller) -> None:
        """Check everything, which resumes it if it is paused."""
        with changing(self.known):
            await self.cell(call)
        await self.goes_on(call)
        await self.flooded(call)
        self.tally.deeds["checked"] += 1

    async def sleep(self, call: Caller) -> None:
        """Pause it to disk in the middle of a flood."""
        with changing(self.known, State.ON_DISK):
            await call("pause_environment", environment_id=self.id, to_disk=True)
        self.tally.deeds["paused to disk"] += 1

    async def fork(self, call: Caller, ledger: Ledger) -> Living:
        """Return a copy, whose programs go on from the same place."""
        with changing(self.known):
            made = await call("fork_environment", environment_id=self.id, count=1)
        (copy,) = made["environments"]
        known = ledger.environment(copy["environment_id"], set())
        self.tally.deeds["forked"] += 1
        return Living(
            known, self.runtime, self.tally, dict(self.counts), list(self.floods), self.value
        )

    async def end(self, call: Caller) -> None:
        """Have everything that counts end, check all of it, and destroy the environment."""
        await self.check(call)
        done = await call("run_command", environment_id=self.id, command=f": >{ENOUGH}")
        assert done["exit_code"] == 0, done
        for job, before in self.counts.items():
            where = {"environment_id": self.id, "job_id": job}
            ended = await call("wait_job", **where, wait_seconds=SECONDS, max_output=1_000)
            assert (ended["status"], ended["exit_code"]) == ("exited", 0), ended
            assert counted(await self.read(call, job), ended=True) >= before
        with changing(self.known, State.GONE):
            await call("destroy_environment", environment_id=self.id)
