# SPDX-License-Identifier: Apache-2.0
"""Calls with an idempotency key: run once however often they repeat, never guessed about."""

import anyio
import pytest
from tests.service.world import LONG, settle
from tests.support.fakes import MemoryCalls

from waggle.domain.access import KeyedCall, KnownCall
from waggle.domain.errors import KeyReused, OutcomeUnknown, WaggleError
from waggle.service.idempotency import Repeats

pytestmark = pytest.mark.anyio
CALL = KeyedCall("alice", "k", "f")


class Work:
    """Work that counts its runs and waits while `hold` is set."""

    def __init__(self, result: str | None = "done") -> None:
        self.result = result
        self.count = 0
        self.hold: anyio.Event | None = None
        self.began = anyio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str | None:
        self.count += 1
        self.began.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return self.result


async def once(repeats: Repeats, work: Work, call: KeyedCall = CALL) -> str | None:
    return await repeats.once(call, work, lost_with_server=False)


async def test_the_second_call_gets_the_first_result() -> None:
    store, work = MemoryCalls(), Work()
    assert await once(Repeats(store), work) is None
    assert await once(Repeats(store), work) == "done"
    assert work.count == 1


async def test_owners_have_separate_keys() -> None:
    repeats, work = Repeats(MemoryCalls()), Work()
    await once(repeats, work)
    assert await once(repeats, work, KeyedCall("bob", "k", "f")) is None
    assert work.count == 2


async def test_a_key_with_other_arguments_is_refused_before_during_and_after() -> None:
    repeats, work = Repeats(MemoryCalls()), Work()
    other = KeyedCall("alice", "k", "g")
    work.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(once, repeats, work)
        await work.began.wait()
        with pytest.raises(KeyReused):
            await once(repeats, work, other)
        work.hold.set()
    with pytest.raises(KeyReused):
        await once(repeats, work, other)
    assert work.count == 1


async def test_a_repeat_while_the_first_call_runs_waits_for_its_result() -> None:
    repeats, work = Repeats(MemoryCalls()), Work()
    work.hold = anyio.Event()
    results: list[str | None] = []

    async def call() -> None:
        results.append(await once(repeats, work))

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call)
            await settle()
            assert work.count == 1
            work.hold.set()
    assert results.count(None) == 1
    assert results.count("done") == 4


async def test_a_call_that_failed_or_did_nothing_may_be_repeated() -> None:
    repeats, work = Repeats(MemoryCalls()), Work()
    work.error = WaggleError("no")
    with pytest.raises(WaggleError):
        await once(repeats, work)
    work.error, work.result = None, None
    assert await once(repeats, work) is None
    work.result = "done"
    assert await once(repeats, work) is None
    assert await once(repeats, work) == "done"
    assert work.count == 3


async def test_a_cancelled_call_frees_its_key_and_a_waiting_call_takes_over() -> None:
    store = MemoryCalls()
    repeats, first, second = Repeats(store), Work(), Work()
    first.hold = anyio.Event()
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await once(repeats, first)

            group.start_soon(cancelled)
            await first.began.wait()
            group.start_soon(once, repeats, second)
            await settle()
            scope.cancel()
    assert (first.count, second.count) == (1, 1)
    assert store.known["alice", "k"].result == "done"


async def test_the_outcome_of_a_killed_server_is_unknown_unless_the_work_was_lost_with_it() -> None:
    store, work = MemoryCalls(), Work()
    store.known["alice", "k"] = KnownCall("f", None)
    with pytest.raises(OutcomeUnknown):
        await once(Repeats(store), work)
    assert work.count == 0
    assert await Repeats(store).once(CALL, work, lost_with_server=True) is None
    assert work.count == 1


async def test_a_store_failure_at_the_start_refuses_a_call_and_at_the_end_is_logged() -> None:
    store, work = MemoryCalls(error=WaggleError("disk full")), Work()
    with pytest.raises(WaggleError, match="disk full"):
        await once(Repeats(store), work)
    assert work.count == 0
    store.error = None
    work.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(once, Repeats(store), work)
        await work.began.wait()
        store.error = WaggleError("disk full")
        work.hold.set()
