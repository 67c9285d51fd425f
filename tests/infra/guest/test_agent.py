# SPDX-License-Identifier: Apache-2.0
"""The agent's protocol against an agent that answers late, wrongly, endlessly or never."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from typing import cast

import pytest
from hypothesis import given
from tests.support.mutations import TURNS, fuzzed, mutated

from waggle.domain.errors import GuestLost
from waggle.infra.guest.agent import MAX_ANSWER, GuestAgent

pytestmark = pytest.mark.anyio
Answer = Callable[[dict[str, object]], bytes]


def returns(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


def synced(answer: Answer) -> Answer:
    """An agent that is in sync and then answers with `answer`."""

    def reply(request: dict[str, object]) -> bytes:
        if request["execute"] == "guest-sync":
            arguments = cast("dict[str, object]", request["arguments"])
            return returns(arguments["id"])
        return answer(request)

    return reply


@contextlib.asynccontextmanager
async def agent(reply: Answer) -> AsyncGenerator[GuestAgent]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_ANSWER)
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)

    async def serve() -> None:
        with contextlib.suppress(ConnectionError):
            while line := await their_reader.readline():
                their_writer.write(reply(json.loads(line)))
                await their_writer.drain()
        their_writer.close()

    serving = asyncio.create_task(serve())
    try:
        yield GuestAgent(reader, writer)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for end in (writer, their_writer):
            end.close()
            with contextlib.suppress(ConnectionError):
                await end.wait_closed()


async def test_a_command_with_arguments_returns_its_value() -> None:
    seen: list[dict[str, object]] = []

    def reply(request: dict[str, object]) -> bytes:
        seen.append(request)
        return returns({"x": [1]})

    async with agent(synced(reply)) as made:
        assert await made.call("guest-x", {"a": 1}) == {"x": [1]}
    assert seen == [{"execute": "guest-x", "arguments": {"a": 1}}]


async def test_concurrent_calls_take_turns() -> None:
    async with agent(synced(lambda request: returns(request["execute"]))) as made:
        names = [f"guest-{number}" for number in range(5)]
        assert await asyncio.gather(*(made.call(name) for name in names)) == names


async def test_an_error_is_reported_with_its_reason_cleaned_and_cut() -> None:
    error = {"error": {"class": "X", "desc": "no\x1b[2J such " + "x" * 1_000}}
    async with agent(synced(lambda _: json.dumps(error).encode() + b"\n")) as made:
        with pytest.raises(
            GuestLost, match=r"carry out guest-x: it refused: no\?\[2J such"
        ) as caught:
            await made.call("guest-x")
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("error", ["text", 7, None, {}, {"desc": 3}, [[]]])
async def test_an_error_of_any_shape_is_a_refusal(error: object) -> None:
    line = json.dumps({"error": error}).encode() + b"\n"
    async with agent(synced(lambda _: line)) as made:
        with pytest.raises(GuestLost, match="it refused"):
            await made.call("guest-x")


async def test_stale_answers_before_the_call_are_dropped() -> None:
    """The late answers of an abandoned call are dropped, broken ones included."""

    def reply(request: dict[str, object]) -> bytes:
        stale = returns("stale") + b'{"error": {}}\n' + b"\xff not json\n" + b"\n" + b"[]\n"
        return stale + synced(lambda _: returns("fresh"))(request)

    def only_at_sync(request: dict[str, object]) -> bytes:
        full = reply(request)
        return full if request["execute"] == "guest-sync" else full.splitlines(keepends=True)[-1]

    async with agent(only_at_sync) as made:
        assert await made.call("guest-x") == "fresh"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"not json\n", id="not json"),
        pytest.param(b"[1]\n", id="no object"),
        pytest.param(b"\xff\xfe\n", id="not text"),
        pytest.param(b"[" * 100_000 + b"\n", id="too deep"),
        pytest.param(b'{"a":' * 30_000 + b"\n", id="too deep an object"),
        pytest.param(b"1" * 5_000 + b"\n", id="too large a number"),
    ],
)
async def test_a_malformed_answer_is_a_lost_guest(answer: bytes) -> None:
    async with agent(synced(lambda _: answer)) as made:
        with pytest.raises(GuestLost, match="its answer is not"):
            await made.call("guest-x")


async def test_an_endless_answer_is_bounded_and_the_next_call_works() -> None:
    answers = [b"x" * (3 * MAX_ANSWER) + b"\n", returns("fine")]

    async with agent(synced(lambda _: answers.pop(0))) as made:
        with pytest.raises(GuestLost, match="its answer is too long"):
            await made.call("guest-x")
        assert await made.call("guest-x") == "fine"


async def test_an_agent_that_never_syncs_is_given_up() -> None:
    async with agent(lambda _: returns("chatter") * 100) as made:
        with pytest.raises(GuestLost, match="earlier calls only"):
            await made.call("guest-x")


async def test_silence_ends_at_the_deadline() -> None:
    async with agent(lambda _: b"") as made:
        with pytest.raises(GuestLost, match=r"no answer within 0\.1 s"):
            await made.call("guest-x", deadline=0.1)


async def test_a_flood_ends_at_the_deadline_in_bounded_memory() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_ANSWER)
    their_reader, their_writer = await asyncio.open_connection(sock=theirs)

    async def flood() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                their_writer.write(b"x" * 100_000)
                await their_writer.drain()

    flooding = asyncio.create_task(flood())
    tracemalloc.start()
    try:
        with pytest.raises(GuestLost):
            await GuestAgent(reader, writer).call("guest-x", deadline=0.5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        for end in (writer, their_writer):
            end.close()
            with contextlib.suppress(ConnectionError):
                await end.wait_closed()
    assert peak < 16 << 20
    assert their_reader is not None


async def test_a_closed_channel_is_a_lost_agent() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.close()
    with pytest.raises(GuestLost, match="its channel is closed"):
        await GuestAgent(reader, writer).call("guest-x")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_cancelled_call_lets_the_next_one_in() -> None:
    hold = True

    def reply(request: dict[str, object]) -> bytes:
        return b"" if hold else synced(lambda _: returns("fine"))(request)

    async with agent(reply) as made:
        waiting = asyncio.create_task(made.call("guest-x"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        hold = False
        assert await made.call("guest-x") == "fine"


class Scripted:
    """The agent's end: it syncs, then sends `answer` and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.reader = asyncio.StreamReader(limit=MAX_ANSWER)
        self._answer = answer

    def write(self, data: bytes) -> None:
        request = json.loads(data)
        if request["execute"] == "guest-sync":
            self.reader.feed_data(returns(request["arguments"]["id"]))
        else:
            self.reader.feed_data(self._answer)
            self.reader.feed_eof()

    async def drain(self) -> None:
        await asyncio.sleep(0)


async def call_answered(answer: bytes) -> None:
    made = Scripted(answer)
    with contextlib.suppress(GuestLost):
        await GuestAgent(made.reader, cast("asyncio.StreamWriter", made)).call("guest-ping")


LINES = [
    returns({"x": [1, -2.5, None, True], "y": "\u00e9\n"}),
    b'{"error": {"class": "GenericError", "desc": "no \xc3\xa9"}}\n',
    b"\xff\xff" + returns([[[1]]]),
]


@given(mutated(LINES))
def test_a_damaged_line_is_an_answer_or_a_lost_guest(answer: bytes) -> None:
    asyncio.run(call_answered(answer))


@pytest.mark.fuzz
@pytest.mark.parametrize("turn", TURNS)
def test_100_000_lines_are_answers_or_lost_guests(turn: int) -> None:
    with asyncio.Runner() as runner:

        @fuzzed
        @given(mutated(LINES))
        def attempt(answer: bytes) -> None:
            runner.run(call_answered(answer))

        attempt()
