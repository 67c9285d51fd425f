# SPDX-License-Identifier: Apache-2.0
"""Watches of files: whose they are, how many, and how they live through pauses and failures."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import anyio.lowlevel
import pytest
from tests.service.world import IDLE, OWNER, Guest, Job, World, settle, world

from waggle.domain.access import Owner
from waggle.domain.environment import State
from waggle.domain.errors import (
    FileNotFound,
    FileRefused,
    GuestLost,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
    TimedOut,
)
from waggle.domain.files.guest_files import Names
from waggle.domain.programs import HOME
from waggle.service.files.watches import MAX_OF_ENVIRONMENT, MAX_OF_OWNER, WatchService

pytestmark = pytest.mark.anyio
ANYTHING = frozenset[str]()


@dataclass
class Watching:
    """The service and what it notified of: environment, path and names."""

    service: WatchService
    heard: list[tuple[str, str, Names]] = field(default_factory=list[tuple[str, str, Names]])

    def __post_init__(self) -> None:
        self.service.when_changed(self._note)

    def _note(self, environment_id: str, path: str, names: Names) -> None:
        self.heard.append((environment_id, path, names))


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world(capacity=5) as made:
        yield made


@dataclass
class Sleeps:
    """A sleep that ends at once, and after `most` times never."""

    most: int = 1_000_000
    slept: list[float] = field(default_factory=list[float])

    async def __call__(self, seconds: float) -> None:
        if len(self.slept) == self.most:
            await anyio.sleep_forever()
        self.slept.append(seconds)
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def watching(here: World) -> Watching:
    return Watching(WatchService(here.service, here.tasks, sleep=Sleeps()))


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not true():
            await anyio.lowlevel.checkpoint()


def begin(here: World, watching: Watching, environment_id: str, path: str) -> Job[None]:
    return here.start(watching.service.begin(environment_id, path, owner=OWNER))


async def test_changes_are_notified_by_whoever_made_them(here: World, watching: Watching) -> None:
    environment = await here.created()
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    assert watching.heard == []
    await here.host.only.write_file("/tmp/a/b", b"")
    here.host.only.change("/tmp/c")
    here.host.only.change("/tmpfile")
    assert watching.heard == [
        (environment.id, "/tmp", {"a/b"}),
        (environment.id, "/tmp", {"c"}),
    ]


async def test_there_is_one_watch_of_a_path_until_it_is_ended(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    for _ in range(3):
        await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    assert here.host.only.watched == ["/tmp"]
    watching.service.end(environment.id, "/tmp")
    watching.service.end(environment.id, "/tmp")
    await settle()
    assert here.host.only.watching == {}
    here.host.only.change("/tmp/c")
    assert watching.heard == []
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    here.host.only.change("/tmp/d")
    assert watching.heard == [(environment.id, "/tmp", {"d"})]


async def test_only_the_owner_watches(here: World, watching: Watching) -> None:
    environment = await here.created()
    with pytest.raises(NotFound):
        await watching.service.begin(environment.id, "/tmp", owner="bob")
    with pytest.raises(NotFound):
        await watching.service.begin("12345678", "/tmp", owner=OWNER)
    assert here.host.only.watched == []


async def test_a_path_that_cannot_be_watched_is_refused(here: World, watching: Watching) -> None:
    environment = await here.created()
    with pytest.raises(FileNotFound):
        await watching.service.begin(environment.id, "/nothing", owner=OWNER)
    with pytest.raises(InvalidArgument):
        await watching.service.begin(environment.id, "/" + "x" * 5_000, owner=OWNER)
    here.host.only.file_error = FileRefused("no")
    with pytest.raises(FileRefused):
        await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    here.host.only.file_error = None
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)


async def test_a_failure_that_is_a_bug_does_not_end_the_server(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    here.host.only.file_error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    await here.created()


async def test_the_watches_of_an_environment_are_limited(here: World, watching: Watching) -> None:
    environment = await here.created()
    for number in range(MAX_OF_ENVIRONMENT):
        await here.host.only.write_file(f"/tmp/{number}", b"")
        await watching.service.begin(environment.id, f"/tmp/{number}", owner=OWNER)
    with pytest.raises(QuotaExceeded, match="At most 8 paths of an environment"):
        await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    await watching.service.begin(environment.id, "/tmp/0", owner=OWNER)
    watching.service.end(environment.id, "/tmp/0")
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)


async def test_the_watches_of_an_owner_are_limited(here: World, watching: Watching) -> None:
    per_environment = MAX_OF_OWNER // 5 + 1
    begun = 0
    for _ in range(5):
        environment = await here.created()
        for number in range(per_environment):
            if begun == MAX_OF_OWNER:
                with pytest.raises(QuotaExceeded):
                    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
                return
            await here.host.guests[environment.id].write_file(f"/tmp/{number}", b"")
            await watching.service.begin(environment.id, f"/tmp/{number}", owner=OWNER)
            begun += 1
    pytest.fail("no limit")


async def test_a_failed_watch_takes_no_place(here: World, watching: Watching) -> None:
    environment = await here.created()
    for number in range(MAX_OF_ENVIRONMENT + 1):
        with pytest.raises(FileNotFound):
            await watching.service.begin(environment.id, f"/no/{number}", owner=OWNER)


async def test_a_watch_is_no_use_of_the_environment(here: World, watching: Watching) -> None:
    environment = await here.created()
    before = here.get(environment.id)
    here.clock.advance(minutes=10)
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    here.host.only.change("/tmp/a")
    after = here.get(environment.id)
    assert (after.active_calls, after.last_used_at) == (0, before.last_used_at)
    here.clock.advance(seconds=(IDLE - timedelta(minutes=9)).total_seconds())
    assert await here.service.retire(environment.id) is State.DESTROYED


async def test_a_watch_ends_at_a_pause_and_begins_again_after_it(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    await here.service.pause(environment.id, owner=OWNER, to_disk=False)
    await settle()
    assert here.host.only.watching == {}
    assert here.host.only.watched == ["/tmp"]
    assert watching.heard == []
    await here.service.resume(environment.id, owner=OWNER)
    await until(lambda: watching.heard == [(environment.id, "/tmp", ANYTHING)])
    here.host.only.change("/tmp/a")
    assert watching.heard[1:] == [(environment.id, "/tmp", {"a"})]


async def test_a_watch_goes_on_in_the_machine_that_resumes_from_the_disk(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    await here.service.pause(environment.id, owner=OWNER, to_disk=True)
    first = here.host.only
    await settle()
    await here.service.resume(environment.id, owner=OWNER)
    second = here.host.guests[environment.id]
    assert second is not first
    await until(lambda: watching.heard == [(environment.id, "/tmp", ANYTHING)])
    second.change("/tmp/a")
    assert watching.heard[1:] == [(environment.id, "/tmp", {"a"})]


async def test_a_paused_environment_is_left_alone_until_it_is_resumed(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    await here.service.pause(environment.id, owner=OWNER, to_disk=False)
    await watching.service.begin(environment.id, "/nothing/yet", owner=OWNER)
    assert here.get(environment.id).state is State.PAUSED
    assert here.host.only.watched == []
    await here.service.resume(environment.id, owner=OWNER)
    await until(lambda: len(here.host.only.watched) > 2)  # it is not there
    await here.host.only.write_file("/nothing/yet", b"")
    await until(lambda: watching.heard == [(environment.id, "/nothing/yet", ANYTHING)])


async def test_a_watch_begins_again_when_the_path_is_back(here: World, watching: Watching) -> None:
    environment = await here.created()
    guest = here.host.only
    guest.directories.add("/tmp/dist")
    await watching.service.begin(environment.id, "/tmp/dist", owner=OWNER)
    guest.directories.remove("/tmp/dist")
    guest.hang_up()
    await until(lambda: guest.watched.count("/tmp/dist") > 3)
    assert watching.heard == []
    guest.directories.add("/tmp/dist")
    await until(lambda: watching.heard == [(environment.id, "/tmp/dist", ANYTHING)])


async def test_a_watch_that_fails_again_and_again_is_tried_ever_more_slowly(here: World) -> None:
    sleeps = Sleeps(most=9)
    watching = Watching(WatchService(here.service, here.tasks, sleep=sleeps))
    environment = await here.created()
    guest = here.host.only
    await watching.service.begin(environment.id, "/tmp", owner=OWNER)
    guest.file_error = GuestLost("gone")
    guest.hang_up()
    await until(lambda: len(sleeps.slept) == sleeps.most)
    assert sleeps.slept == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]


async def test_the_end_of_an_environment_ends_its_watches(here: World, watching: Watching) -> None:
    environment, other = await here.created(), await here.created()
    for one in (environment, other):
        await watching.service.begin(one.id, "/tmp", owner=OWNER)
    guests = here.host.guests
    await here.service.destroy(environment.id, owner=OWNER)
    await settle()
    assert guests[environment.id].watching == {}
    assert len(guests[environment.id].watched) == 1
    guests[other.id].change("/tmp/a")
    assert watching.heard == [(other.id, "/tmp", {"a"})]


async def test_callers_wait_for_the_same_begin_and_one_may_give_up(
    here: World, watching: Watching
) -> None:
    environment = await here.created()
    guest: Guest = here.host.only
    guest.watch_until = anyio.Event()
    first, second = (begin(here, watching, environment.id, "/tmp") for _ in range(2))
    await settle()
    assert not second.is_done
    first.cancel()
    guest.watch_until.set()
    await second.result()
    assert guest.watched == ["/tmp"]
    guest.change("/tmp/a")
    assert len(watching.heard) == 1


async def test_an_end_meanwhile_lets_callers_go(here: World, watching: Watching) -> None:
    environment = await here.created()
    here.host.only.watch_until = anyio.Event()
    waiting = begin(here, watching, environment.id, "/tmp")
    await settle()
    watching.service.end(environment.id, "/tmp")
    await waiting.result()
    assert here.host.only.watching == {}


async def test_a_guest_that_does_not_begin_is_not_waited_for(here: World) -> None:
    watching = Watching(WatchService(here.service, here.tasks, patience=0.01))
    environment = await here.created()
    here.host.only.watch_until = anyio.Event()
    with pytest.raises(TimedOut):
        await watching.service.begin(environment.id, "/tmp", owner=Owner(OWNER))
    watching.service.end(environment.id, "/tmp")
    await settle()


async def test_home_is_a_path_like_any_other(here: World, watching: Watching) -> None:
    environment = await here.created()
    await watching.service.begin(environment.id, HOME, owner=OWNER)
    here.host.only.change(f"{HOME}/x")
    assert watching.heard == [(environment.id, HOME, {"x"})]
