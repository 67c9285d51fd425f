# SPDX-License-Identifier: Apache-2.0
"""Clients that work with environments as agents do, and a ledger of the answers they got.

The ledger says what must exist after a server was killed: `recovered` compares. A client works with
its own environments, one call at a time, so that every answer can be compared with the last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import anyio
import httpx2
from tests.support.server import NO_TLS, request

LARGEST = 200_000
"""Characters of a file that a client writes."""
MOST_ENVIRONMENTS = 3
"""Environments of one client."""
MOST_SNAPSHOTS = 2
"""Snapshots of one client."""
ANSWER_SECONDS = 600.0
TRIES = 4
SUMS = "busybox md5sum note /dev/shm/note"
KEEP = f"cat note >/dev/shm/note; busybox sync; {SUMS}"


class Killed(Exception):
    """The server died before it answered completely."""


class State(Enum):
    """The known state of an environment or snapshot."""

    RUNNING = "running"
    """It ends with its server."""
    ON_DISK = "on disk"
    """A pause to disk, or the snapshot, was answered: it outlives its server."""
    UNSURE = "unsure"
    """A call that changes it was not answered yet."""
    GONE = "gone"
    """Its end was answered."""


@dataclass(eq=False, slots=True)
class Known:
    """One environment or snapshot as its client knows it. `sums`: its file's possible checksums."""

    id: str
    state: State
    sums: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Ledger:
    """The answers that all clients got."""

    environments: dict[str, Known] = field(default_factory=dict[str, Known])
    snapshots: dict[str, Known] = field(default_factory=dict[str, Known])
    taking: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Checksums of environments of which a snapshot with an unknown id is being taken, by id."""

    def environment(self, identity: str, sums: set[str]) -> Known:
        """Record a new environment, which runs."""
        known = self.environments[identity] = Known(identity, State.RUNNING, {*sums})
        return known

    def snapshot(self, identity: str, sums: set[str]) -> Known:
        """Record a snapshot that was kept."""
        known = self.snapshots[identity] = Known(identity, State.ON_DISK, {*sums})
        return known


class Caller:
    """Calls tools without a session over one HTTP client. `began` is called with every tool.

    Repeats and counts calls with a retryable error: a busy machine was too slow.
    """

    def __init__(
        self, http: httpx2.AsyncClient, url: str, began: Callable[[str], None] = lambda _tool: None
    ) -> None:
        self._http = http
        self._url = url
        self._began = began
        self.again = list[str]()

    async def __call__(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Return the structured content. Raises Killed, or AssertionError for a refusal."""
        error: dict[str, Any] = {}
        for _ in range(TRIES):
            self._began(tool)
            result = await self._post(tool, arguments)
            if not result.get("isError"):
                return dict(result["structuredContent"])
            error = result["_meta"]["waggle/error"]
            if not error["retryable"]:
                break
            self.again.append(str(error["message"]))
        raise AssertionError(f"{tool}({arguments}): {error}")

    async def refused(self, tool: str, **arguments: object) -> str:
        """Make a call that must be refused, and return the error's code. Raises Killed."""
        result = await self._post(tool, arguments)
        assert result.get("isError"), (tool, arguments, result)
        return str(result["_meta"]["waggle/error"]["code"])

    async def _post(self, tool: str, arguments: dict[str, object]) -> dict[str, Any]:
        message = request("tools/call", {"name": tool, "arguments": arguments})
        headers = {"Accept": "application/json, text/event-stream"}
        try:
            answer = await self._http.post(self._url, json=message, headers=headers)
        except httpx2.HTTPError as error:
            raise Killed(f"{tool}: {error!r}") from error
        data = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
        answers = [json.loads(line) for line in data if '"result"' in line]
        if not answers:
            raise Killed(f"{tool}: status {answer.status_code}, {answer.text[-300:]}")
        return dict(answers[-1]["result"])


class Agent:
    """One client with its environments and snapshots."""

    def __init__(self, call: Caller, ledger: Ledger, rng: random.Random) -> None:
        self._call = call
        self._ledger = ledger
        self._rng = rng
        self.mine: list[Known] = []
        self.kept: list[Known] = []

    async def work(self) -> None:
        """Work until the server is gone. Raises Killed then."""
        while True:
            await self._one()

    async def _one(self) -> None:
        chance = self._rng.random()
        if not self.mine or (len(self.mine) < MOST_ENVIRONMENTS and chance < 0.2):
            again = self.kept and chance < 0.1
            await (self.copy(self._rng.choice(self.kept)) if again else self.create())
            return
        if len(self.kept) >= MOST_SNAPSHOTS:
            await self.forget(self._rng.choice(self.kept))
            return
        deeds: list[Callable[[Known], Awaitable[None]]] = [self.write, self.check, self.snapshot]
        deeds += [self.sleep] * 4 + [self.resume]
        deeds += [self.fork] if len(self.mine) < MOST_ENVIRONMENTS else [self.destroy] * 2
        await self._rng.choice(deeds)(self._rng.choice(self.mine))

    async def create(self) -> None:
        """Create an environment with a file."""
        made = await self._call("create_environment", runtime="shell")
        self.mine.append(known := self._ledger.environment(made["environment_id"], set()))
        await self.write(known)

    async def copy(self, snapshot: Known) -> None:
        """Create an environment from a snapshot; it must have the snapshot's content."""
        made = await self._call("create_environment", snapshot=snapshot.id)
        known = self._ledger.environment(made["environment_id"], snapshot.sums)
        self.mine.append(known)
        await self.check(known)

    async def write(self, known: Known) -> None:
        """Write new content, on the disk and in memory."""
        text = f"{self._rng.random()}\n" * self._rng.randrange(1, LARGEST // 20)
        total = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        known.sums.add(total)
        with changing(known):
            await self._call("write_file", environment_id=known.id, path="note", content=text)
        known.sums = {total}
        await self.check(known, KEEP)

    async def check(self, known: Known, code: str = SUMS) -> None:
        """Check the file's content in both places. Resumes a paused environment."""
        with changing(known):
            done = await self._call("execute", environment_id=known.id, code=code)
        assert done["exit_code"] == 0, done
        found = {line.split()[0] for line in done["stdout"].splitlines()}
        assert len(found) == 1, (known, done)
        assert found <= known.sums, (known, done)
        known.sums = found

    async def sleep(self, known: Known) -> None:
        """Pause to disk; sometimes pause in memory first."""
        if known.state is State.RUNNING and self._rng.random() < 0.2:
            await self._call("pause_environment", environment_id=known.id)
        with changing(known, State.ON_DISK):
            await self._call("pause_environment", environment_id=known.id, to_disk=True)

    async def resume(self, known: Known) -> None:
        """Resume with a separate call."""
        with changing(known):
            await self._call("resume_environment", environment_id=known.id)

    async def snapshot(self, known: Known) -> None:
        """Take a snapshot of the current state."""
        self._ledger.taking[known.id] = {*known.sums}
        with changing(known):
            taken = await self._call("snapshot_environment", environment_id=known.id)
        self.kept.append(self._ledger.snapshot(taken["snapshot_id"], known.sums))
        del self._ledger.taking[known.id]

    async def forget(self, snapshot: Known) -> None:
        """Delete a snapshot."""
        with changing(snapshot, State.GONE):
            await self._call("delete_snapshot", snapshot_id=snapshot.id)
        self.kept.remove(snapshot)

    async def fork(self, known: Known) -> None:
        """Make a copy, which must have its origin's content."""
        with changing(known):
            made = await self._call("fork_environment", environment_id=known.id, count=1)
        (copy,) = made["environments"]
        self.mine.append(self._ledger.environment(copy["environment_id"], known.sums))

    async def destroy(self, known: Known) -> None:
        """Destroy the environment."""
        with changing(known, State.GONE):
            await self._call("destroy_environment", environment_id=known.id)
        self.mine.remove(known)


@contextlib.contextmanager
def changing(known: Known, after: State = State.RUNNING) -> Generator[None]:
    """Set the state to `after` for a call. It is unsure meanwhile, unless a kill would end it."""
    dies = known.state is State.RUNNING and after is not State.ON_DISK
    if known.state is not after and not dies:
        known.state = State.UNSURE
    yield
    known.state = after


class Workload:
    """A number of agents. Close `http` at the end."""

    def __init__(self, url: str, agents: int, rng: random.Random, ledger: Ledger) -> None:
        self.http = httpx2.AsyncClient(timeout=ANSWER_SECONDS, verify=NO_TLS)
        self.call = Caller(self.http, url, self._began)
        self.agents = [Agent(self.call, ledger, random.Random(rng.random())) for _ in range(agents)]
        self._begun: dict[str, anyio.Event] = {}
        self._calls = 0
        self._enough = 0, anyio.Event()

    def _began(self, tool: str) -> None:
        self._begun.pop(tool, anyio.Event()).set()
        self._calls += 1
        if self._calls >= self._enough[0]:
            self._enough[1].set()

    async def reaches(self, calls: int) -> None:
        """Return when that many more calls have begun."""
        self._enough = self._calls + calls, anyio.Event()
        await self._enough[1].wait()

    async def begins(self, tool: str) -> None:
        """Return when the next call of that tool begins."""
        await self._begun.setdefault(tool, anyio.Event()).wait()

    async def run(self, is_alive: Callable[[], bool]) -> None:
        """Have all agents work until the server is gone. Fails if it lives but does not answer."""
        async with anyio.create_task_group() as tasks:
            for agent in self.agents:
                tasks.start_soon(_until_killed, agent, is_alive)


async def _until_killed(agent: Agent, is_alive: Callable[[], bool]) -> None:
    try:
        await agent.work()
    except Killed as error:
        if is_alive():
            raise AssertionError("the server lives, and did not answer") from error
