# SPDX-License-Identifier: Apache-2.0
"""The agent's client against a guest that answers wrongly, twice, endlessly or never."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent_peer import (
    GOOD,
    Reply,
    Request,
    error,
    good,
    greeted,
    line,
    listening,
    paired,
    result,
)
from tests.support.changed import changed_json
from tests.support.waiting import cancelled, until

from waggle.domain.errors import GuestLost, TooLarge
from waggle.infra.guest.agent import MachineAgent
from waggle.infra.guest.answers import AgentRefused, parse
from waggle.infra.guest.channel import MAX_WAITING, Channel
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import MAX_ANSWER, MAX_REQUEST, METHODS

pytestmark = pytest.mark.anyio
BIG = 2**64
SOON = 0.05
GIB = 1 << 30


def raw(request: Request, text: bytes) -> bytes:
    """Return an answer whose result is this text."""
    return b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (request["id"], text)


JUNK: dict[str, Reply] = {
    "half a line": lambda r: good(r)[:-20] + b"\n",
    "empty lines": lambda _: b"\n\n\r\n \n",
    "text": lambda _: b"login: \n",
    "no object": lambda _: b"[1]\n7\nnull\n\"x\"\n",
    "a batch": lambda r: b"[" + good(r).strip() + b"]\n",
    "not UTF-8": lambda r: good(r).replace(b'"2.0"', b'"2.0", "x": "\xff"'),
    "UTF-16": lambda r: good(r).decode().encode("utf-16") + b"\n",
    "a byte order mark": lambda r: b"\xef\xbb\xbf" + good(r),
    "NUL": lambda r: good(r).replace(b"{", b"\0{", 1),
    "an escaped NUL": lambda r: good(r).replace(b"{", b'{"x": ["\\u0000"], ', 1),
    "an escaped NUL in a name": lambda r: good(r).replace(b"{", b'{"\\u0000": 1, ', 1),
    "a member twice": lambda r: good(r).replace(b"{", b'{"id": 1, ', 1),
    "a member of the result twice": lambda r: raw(r, b'{"a": 1, "a": 1}'),
    "nested deeply": lambda r: raw(r, b"[" * 16 + b"]" * 16),
    "nested very deeply": lambda r: raw(r, b'{"a":' * 50_000),
    "a huge number": lambda r: raw(r, b"1" * 200_000),
    "a large number": lambda r: raw(r, b"1" * 21),
    "no number": lambda r: raw(r, b"NaN"),
    "too many values": lambda r: raw(r, b"[" + b"0," * 100_000 + b"0]"),
    "too many objects": lambda r: raw(r, b"[" + b"{}," * 5_000 + b"0]"),
    "another id": lambda r: good({**r, "id": r["id"] + 1}),
    "an earlier id": lambda r: good({**r, "id": 1}),
    "a negative id": lambda r: good({**r, "id": -r["id"]}),
    "a text as id": lambda r: good({**r, "id": str(r["id"])}),
    "a fraction as id": lambda r: good(r).replace(b"%d" % r["id"], b"%d.0" % r["id"]),
    "a list as id": lambda r: good({**r, "id": [r["id"]]}),
    "true as id": lambda r: good({**r, "id": True}),
    "null as id": lambda r: error({**r, "id": None}, -32700),
    "no version": lambda r: line({"id": r["id"], "result": {}}),
    "another version": lambda r: line({"jsonrpc": "1.0", "id": r["id"], "result": {}}),
    "neither": lambda r: line({"jsonrpc": "2.0", "id": r["id"]}),
    "both": lambda r: line({"jsonrpc": "2.0", "id": r["id"], "result": {}, "error": {}}),
    "an error without a code": lambda r: line({"jsonrpc": "2.0", "id": r["id"], "error": {}}),
    "an error that is a text": lambda r: line({"jsonrpc": "2.0", "id": r["id"], "error": "no"}),
    "a code that is a text": lambda r: error(r, "-32000"),
    "a message that is none": lambda r: error(r, -32000, ["no"]),
    "our own request": line,
    "a notification": lambda _: line({"jsonrpc": "2.0", "method": "x", "params": [1]}),
    "a long line": lambda r: raw(r, b'"' + b"x" * MAX_ANSWER + b'"'),
}  # fmt: skip


@pytest.mark.parametrize("kind", JUNK)
async def test_what_is_no_answer_is_ignored(kind: str) -> None:
    """It neither ends the call, nor harms the answer behind it."""
    async with paired(greeted(lambda r: JUNK[kind](r) + good(r))) as (client, _):
        await client.agent_info()
        await client.ping()
        assert (await client.system_info()).hostname == "box"


@pytest.mark.parametrize("kind", [kind for kind in JUNK if kind != "half a line"])
async def test_what_is_no_answer_does_not_end_a_call(kind: str) -> None:
    async with paired(greeted(JUNK[kind])) as (client, _):
        with pytest.raises(GuestLost, match=r"no answer within 0\.05 s"):
            await client.ping(SOON)


WRONG: list[dict[str, object]] = [
    {"cpus": -1}, {"cpus": 2**60}, {"cpus": 1.5}, {"cpus": True}, {"cpus": "1"}, {"uptime": 1e99},
    {"uptime": "1"}, {"uptime": True}, {"hostname": 7}, {"hostname": "x" * 256},
    {"hostname": "\ud800"}, {"os": None}, {"os": {}}, {"time": -1},
]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [None, 7, "x", [], [{}], {}, *({**GOOD["get_system_info"], **one} for one in WRONG)],
)
async def test_a_result_of_another_shape_is_a_lost_guest(wrong: object) -> None:
    async with paired(greeted(lambda r: result(r, wrong))) as (client, _):
        with pytest.raises(GuestLost, match="its answer is wrong: ") as caught:
            await client.system_info()
        assert not isinstance(caught.value, AgentRefused)
        assert len(caught.value.message) < 300


UNFIT: list[object] = [
    *(-1, BIG, "#" * 70_000, [{}] * 1_001, {"x": 1}, float("inf"), float("nan"))
]  # fmt: skip


@pytest.mark.parametrize("method", [name for name, right in GOOD.items() if right])
def test_every_member_of_a_result_is_there_and_bounded(method: str) -> None:
    kind, right = METHODS[method].result, GOOD[method]
    for name in right:
        with pytest.raises(ValueError, match=name):
            kind.model_validate({other: it for other, it in right.items() if other != name})
        for value in UNFIT:
            with pytest.raises(ValueError, match=name):
                kind.model_validate({**right, name: value})


async def test_a_long_error_is_cut() -> None:
    def reply(request: Request) -> bytes:
        data = {f"{number}{'k' * 900}": "v" * 900 for number in range(300)}
        return error(request, -32006, "x" * 100_000, data=data)

    async with paired(greeted(reply)) as (client, _):
        with pytest.raises(AgentRefused) as caught:
            await client.ping()
    assert len(caught.value.message) < 400
    assert len(caught.value.data) <= 8
    assert all(len(text) <= 200 for pair in caught.value.data.items() for text in pair)


async def test_answers_that_come_twice_are_taken_once() -> None:
    async with paired(lambda r: good(r) * 3) as (client, _):
        for _ in range(50):
            assert (await client.system_info()).hostname == "box"


async def test_late_answers_of_calls_that_were_given_up_disturb_nobody() -> None:
    held: list[Request] = []
    hold = True

    def reply(request: Request) -> bytes:
        if hold:
            held.append(request)
            return b""
        late = b"".join(result(one, {"time": 1}) for one in held)
        held.clear()
        return late + result(request, {"time": 2})

    async with paired(greeted(reply)) as (client, _):
        await client.agent_info()
        wire = client._channel._wire
        assert wire is not None
        for turn in (1, 2, 3):
            tasks = [asyncio.create_task(client.set_time(0)) for _ in range(MAX_WAITING)]
            await until(lambda sent=turn * MAX_WAITING: len(held) == sent)
            for task in tasks:
                await cancelled(task)
        assert len(wire._late) == MAX_WAITING
        hold = False
        assert await client.set_time(0) == 2
        assert (len(wire._waiting), len(wire._late)) == (0, 0)


async def test_silence_ends_at_the_deadline_of_each_call() -> None:
    async with paired(lambda _: b"") as (client, _):
        began = time.monotonic()
        calls = [client.ping(SOON), client.call("get_users", METHODS["get_users"].result, {}, SOON)]
        for failed in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(failed, GuestLost)
        assert time.monotonic() - began < 10 * SOON


async def outcome(client: AgentClient, method: str, params: dict[str, Any]) -> str:
    """Return how a call ended, for which there are three ways."""
    try:
        found = await client.call(method, METHODS[method].result, params)
    except GuestLost as failed:
        shown = failed.message.isprintable() and len(failed.message) < 500
        return ("refused" if isinstance(failed, AgentRefused) else "lost") if shown else "dirty"
    return "good" if isinstance(found, METHODS[method].result) else "odd"


async def test_fuzzed_answers_are_results_refusals_or_lost_guests() -> None:
    """A call gets a changed answer, and the right one behind it."""
    chance = random.Random(17)
    outcomes = {"good": 0, "refused": 0, "lost": 0}

    def reply(request: Request) -> bytes:
        kind, value = ("result", GOOD[request["method"]])
        if chance.random() < 0.3:
            kind, value = ("error", {"code": -32000, "message": "no", "data": {"policy": "read"}})
        if chance.random() < 0.5:
            head = b'{"jsonrpc":"2.0","id":%d,"%s":' % (request["id"], kind.encode())
            return head + changed_json(value, chance) + b"}\n" + good(request)
        answer = {"jsonrpc": "2.0", "id": request["id"], kind: value}
        return changed_json(answer, chance) + b"\n" + good(request)

    methods = [name for name in METHODS if name not in {"ping", "shutdown", "reboot"}]
    for _ in range(40):
        async with paired(greeted(reply)) as (client, _peer):
            for _ in range(250):
                method = chance.choice(methods)
                params = {"process": 1, "path": "/a", "data": b"", "time": 1, "argv": ["/x"]}
                wanted = METHODS[method].params.model_fields
                given = {name: it for name, it in params.items() if name in wanted}
                outcomes[await outcome(client, method, given)] += 1
    assert min(outcomes.values()) > 200, outcomes


def test_any_bytes_are_parsed_or_dropped() -> None:
    chance = random.Random(18)
    parts = [
        b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b'"id":', b"1", b"\xff", b"\0", b"e9",
        b'"result":', b'"error":', b'"jsonrpc":"2.0"', b"\\u0000", b"\\ud800", b"-",
    ]  # fmt: skip
    for _ in range(10_000):
        parse(b"{" + b"".join(chance.choices(parts, k=chance.randrange(30))))


async def test_a_channel_refuses_a_line_that_no_agent_takes() -> None:
    async def never() -> Any:
        raise AssertionError("it dials")

    with pytest.raises(TooLarge):
        await Channel(never).ask("x", json.dumps("y" * MAX_REQUEST))


async def test_a_report_that_is_refused_leaves_no_questions(tmp_path: Path) -> None:
    """A guest refuses one of its parts at once, and never answers the others."""

    def reply(request: Request) -> bytes:
        return error(request, -32_006) if request["method"] == "get_users" else b""

    path = tmp_path / "agent.sock"
    async with listening(path, greeted(reply)):
        agent = MachineAgent(lambda: asyncio.open_unix_connection(path))
        await agent.agent_info()
        tasks = len(asyncio.all_tasks())
        for _ in range(3):
            with pytest.raises(AgentRefused):
                await agent.report()
        assert len(asyncio.all_tasks()) == tasks
        await agent.close()


async def test_a_policy_does_not_have_a_host_wait_for_years() -> None:
    info = GOOD["get_agent_info"]
    policy = info["policy"]
    limits = {**policy["limits"], "timeout_seconds": 2**50}
    said = {**info, "policy": {**policy, "limits": limits}}
    async with paired(lambda request: result(request, said)) as (client, _):
        with pytest.raises(GuestLost, match="timeout_seconds"):
            await client.run(["/bin/x"])
