# SPDX-License-Identifier: Apache-2.0
"""Lines of a host, good and bad: what the agent makes of each, and that it serves on afterwards."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from tests.support.agent_program import (
    ALL,
    Agent,
    children_of,
    full_request,
    resident,
    running_agent,
)
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import MAX_REQUEST, METHODS, ErrorCode, system

GOOD = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'
FUZZED_LINES = 10_000
MAX_MEMORY = 2 << 20


def test_it_answers_with_the_id_and_the_result(agent: Agent) -> None:
    agent.send(GOOD + b"\n")
    assert agent.message() == {"jsonrpc": "2.0", "id": 7, "result": {}}


@pytest.mark.parametrize("given", [0, -1, 2**63 - 1, -(2**63), "", "a", 'q"\\\u20ac', "x" * 64])
def test_ids_come_back_as_they_are(agent: Agent, given: object) -> None:
    agent.send(json.dumps({"jsonrpc": "2.0", "id": given, "method": "ping"}).encode() + b"\n")
    assert agent.message()["id"] == given


@pytest.mark.parametrize(
    "line, code",
    [
        (b"x", ErrorCode.PARSE_ERROR),
        (b"{", ErrorCode.PARSE_ERROR),
        (GOOD[:-9], ErrorCode.PARSE_ERROR),
        (GOOD + b"}", ErrorCode.PARSE_ERROR),
        (b"\0", ErrorCode.PARSE_ERROR),
        (b"\xff\xfe", ErrorCode.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":"\xc0\x80","method":"ping"}', ErrorCode.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":"\\u0000","method":"ping"}', ErrorCode.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}', ErrorCode.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":9223372036854775808,"method":"ping"}', ErrorCode.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', ErrorCode.PARSE_ERROR),
        (b"[" * 17 + b"]" * 17, ErrorCode.PARSE_ERROR),
        (b'{"a":' * 20_000, ErrorCode.PARSE_ERROR),
        (b"[" + GOOD + b"]", ErrorCode.INVALID_REQUEST),
        (b"[]", ErrorCode.INVALID_REQUEST),
        (b"1", ErrorCode.INVALID_REQUEST),
        (b"null", ErrorCode.INVALID_REQUEST),
        (b'"text"', ErrorCode.INVALID_REQUEST),
        (b"{}", ErrorCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', ErrorCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":7.5,"method":"ping"}', ErrorCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', ErrorCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', ErrorCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":"' + b"x" * 65 + b'","method":"ping"}', ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_line_without_a_known_id_is_refused_with_null(
    agent: Agent, line: bytes, code: ErrorCode
) -> None:
    agent.send(line + b"\n" + GOOD + b"\n")
    answer = agent.message()
    assert (answer["id"], answer["error"]["code"]) == (None, code)
    assert agent.message()["id"] == 7


@pytest.mark.parametrize(
    "request_, code",
    [
        ({"jsonrpc": "1.0", "method": "ping"}, ErrorCode.INVALID_REQUEST),
        ({"method": "ping"}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0"}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "method": 1}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "method": "ping", "params": []}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "method": "ping", "extra": 1}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "method": "guest-ping"}, ErrorCode.METHOD_NOT_FOUND),
        ({"jsonrpc": "2.0", "method": "x" * 10_000}, ErrorCode.METHOD_NOT_FOUND),
        ({"jsonrpc": "2.0", "method": "ping", "params": {"a": 1}}, ErrorCode.INVALID_PARAMS),
        (
            {"jsonrpc": "2.0", "method": "get_agent_info", "params": {"protocol": "2.0"}},
            ErrorCode.UNSUPPORTED,
        ),
        ({"jsonrpc": "2.0", "method": "file_read"}, ErrorCode.INVALID_PARAMS),
        (
            {"jsonrpc": "2.0", "method": "file_read", "params": {"path": "a"}},
            ErrorCode.INVALID_PARAMS,
        ),
        (
            {"jsonrpc": "2.0", "method": "get_process", "params": {"process": 1}},
            ErrorCode.NOT_FOUND,
        ),
    ],
)
def test_a_wrong_request_is_refused_with_its_id(
    agent: Agent, request_: dict[str, object], code: ErrorCode
) -> None:
    agent.send(json.dumps({"id": 3, **request_}).encode() + b"\n")
    answer = agent.message()
    assert (answer["id"], answer["error"]["code"]) == (3, code), answer


def test_a_notification_is_not_answered(agent: Agent) -> None:
    agent.send(b'{"jsonrpc":"2.0","method":"ping"}\n{"jsonrpc":"2.0","method":"nope"}\n')
    agent.send(b'{"jsonrpc":"2.0","method":"get_users"}\n' + GOOD + b"\n")
    assert agent.message()["id"] == 7


def test_empty_lines_are_ignored_and_a_line_may_come_in_pieces(agent: Agent) -> None:
    agent.send(b"\n\n" + GOOD[:10])
    agent.send(GOOD[10:] + b"\n\n")
    assert agent.message()["id"] == 7


def test_a_half_line_of_an_earlier_host_spoils_one_line_only(agent: Agent) -> None:
    agent.send(b'{"jsonrpc":"2.0","id":1,"meth')
    agent.send(b"\n" + GOOD + b"\n")
    assert agent.message()["id"] is None
    assert agent.message()["id"] == 7


def test_the_longest_line_is_taken_and_a_longer_one_is_not(agent: Agent) -> None:
    agent.send(GOOD.ljust(MAX_REQUEST - 1) + b"\n")
    assert agent.message()["id"] == 7
    agent.send(GOOD.ljust(MAX_REQUEST) + b"\n" + GOOD + b"\n")
    answer = agent.message()
    assert (answer["id"], answer["error"]["code"]) == (None, ErrorCode.TOO_LARGE)
    assert agent.message()["id"] == 7


def test_a_gibibyte_without_an_end_is_dropped_and_takes_no_memory(
    agent_program_as_shipped: Path, tmp_path: Path
) -> None:
    with running_agent(agent_program_as_shipped, tmp_path) as agent:
        junk = b"x" * (1 << 20)
        for _ in range(1024):
            agent.send(junk)
        agent.send(b"\n" + GOOD + b"\n")
        assert agent.message()["error"]["code"] == ErrorCode.TOO_LARGE
        assert agent.message()["id"] == 7
        assert resident(agent.process.pid) <= MAX_MEMORY


def test_memory_stays_bounded_whatever_a_line_holds(
    agent_program_as_shipped: Path, tmp_path: Path
) -> None:
    numbers = b"[" + b"1," * 130_000 + b"1]"
    objects = b"[" + b"{}," * 80_000 + b"{}]"
    members = b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}"
    text = b'"' + b"\\n" * 130_000 + b'"'
    with running_agent(agent_program_as_shipped, tmp_path) as agent:
        for junk in (numbers, objects, members, text):
            agent.send(junk + b"\n")
            assert agent.message()["id"] is None
        for _ in range(20):
            assert agent.result("get_metrics")
        assert resident(agent.process.pid) <= MAX_MEMORY


def test_a_request_that_takes_nearly_all_memory_is_refused_with_all_that_an_error_has(
    agent: Agent,
) -> None:
    codes: dict[object, int] = {}
    for members in range(6_000, 6_200, 2):
        agent.send(full_request(members) + b"\n")
        answer = agent.message()
        assert answer["error"]["message"]
        assert answer["id"] == (None if answer["error"]["code"] == ErrorCode.TOO_LARGE else 7)
        codes[answer["error"]["code"]] = members
    assert list(codes) == [ErrorCode.INVALID_PARAMS, ErrorCode.TOO_LARGE]


@pytest.mark.parametrize("last", [b"1" * 40_000, b'"' + b"\\u0041" * 7_000 + b'"', b"a" * 40_000])
def test_a_word_that_memory_ends_in_is_too_large(agent: Agent, last: bytes) -> None:
    """Whose buffer jansson could not make longer: it went on beyond its end, or ended the agent."""
    codes: set[object] = set()
    for members in range(3_000, 6_100, 50):
        agent.send(full_request(members)[:-2] + b',"last":' + last + b"}}\n")
        error = agent.message()["error"]
        codes.add(error["code"])
        assert error["message"] != "It is too large." or error["code"] == ErrorCode.TOO_LARGE
    assert ErrorCode.TOO_LARGE in codes
    assert codes <= {ErrorCode.TOO_LARGE, ErrorCode.PARSE_ERROR, ErrorCode.INVALID_PARAMS}
    assert agent.result("ping") == {}


def test_it_serves_on_after_fuzzed_lines(agent: Agent) -> None:
    draw = random.Random(17)
    good = [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": {}}).encode()
        for name in METHODS
        if name not in ("shutdown", "reboot", "set_time", "freeze_filesystems", "sync_filesystems")
    ]
    for number in range(FUZZED_LINES):
        line = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(line))
            match draw.randrange(4):
                case 0:
                    line[at] = draw.randrange(256)
                case 1:
                    line[at:at] = draw.randbytes(draw.randint(1, 20))
                case 2:
                    del line[at : at + draw.randint(1, 10)]
                case _:
                    line += line[:at]
            line = line.replace(b"\n", b" ") or bytearray(b" ")
        agent.send(bytes(line) + b"\n")
        if number % 50 == 49:  # so that the answers do not fill the channel
            wanted = agent.request("ping")
            while agent.message().get("id") != wanted:
                pass
    assert agent.result("ping") == {}


def test_requests_that_take_long_hold_up_nobody(agent: Agent) -> None:
    slow = agent.request("exec_command", argv=["/bin/sleep", "30"], timeout=60)
    assert agent.result("ping") == {}
    assert agent.result("list_directory", path="/")["entries"]
    agent.request("kill_process", process=1)
    answers = {message["id"]: message for message in (agent.message(), agent.message())}
    assert answers[slow]["result"]["status"] == "killed"


def test_as_many_requests_as_allowed_are_under_way_and_others_are_told(
    agent_program: Path, tmp_path: Path
) -> None:
    policy = {**ALL, "limits": {"requests": 2, "processes": 1}}
    with running_agent(agent_program, tmp_path, policy) as agent:
        agent.send(b"".join(_request(number, "get_users") for number in range(1, 41)))
        codes = [agent.message().get("error", {}).get("code") for _ in range(40)]
        assert set(codes) == {None, ErrorCode.BUSY}
        long = agent.request("exec_command", argv=["/bin/sleep", "60"], wait=False)
        assert agent.answer(long)["result"]["status"] == "running"
        error = agent.error("exec_command", argv=["/bin/true"])
        assert error["code"] == ErrorCode.BUSY
        assert agent.result("ping") == {}


def test_a_child_that_is_killed_is_told(agent: Agent, tmp_path: Path) -> None:
    wanted = agent.request("exec_command", argv=["/bin/sleep", "60"])
    [child] = until_sync(lambda: children_of(agent.process.pid), seconds=10)
    os.kill(child, 9)
    assert agent.answer(wanted)["error"]["code"] == ErrorCode.INTERNAL_ERROR
    assert agent.result("ping") == {}


def test_it_ends_with_its_channel_and_leaves_nothing(agent: Agent) -> None:
    agent.request("exec_command", argv=["/bin/sleep", "61"])
    [child] = until_sync(lambda: children_of(agent.process.pid), seconds=10)
    agent.wire.close()
    assert agent.process.wait(10) == 0
    until_sync(lambda: not Path(f"/proc/{child}").exists(), seconds=10)


def test_it_says_what_it_is_and_what_it_allows(agent: Agent) -> None:
    info = system.AgentInfo.model_validate_json(
        json.dumps(agent.result("get_agent_info", protocol="1.0"))
    )
    assert info.protocol == "1.0"
    assert set(info.methods) == set(METHODS)
    assert info.policy.read.allow == ["/"]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_limit_that_a_policy_does_not_give_is_the_default(
    agent_program: Path, tmp_path: Path, is_first: bool
) -> None:
    wide: dict[str, object] = {
        "limits": {"requests": 32, "output_bytes": 262_144, "timeout_seconds": 30}
    }
    none: dict[str, object] = {}
    policies = (none, wide) if is_first else (wide, none)
    with running_agent(agent_program, tmp_path, *policies) as agent:
        limits = agent.result("get_agent_info")["policy"]["limits"]
    assert (limits["requests"], limits["output_bytes"], limits["timeout_seconds"]) == (
        8,
        65_536,
        30,
    )


def _request(number: int, method: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method}).encode() + b"\n"


def test_a_request_that_was_answered_leaves_room_for_the_next(
    agent_program: Path, tmp_path: Path
) -> None:
    """At once, though its child may not have ended yet."""
    with running_agent(agent_program, tmp_path, {**ALL, "limits": {"requests": 1}}) as agent:
        for _ in range(300):
            agent.result("get_agent_info")
