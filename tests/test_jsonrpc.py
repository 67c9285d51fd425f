# SPDX-License-Identifier: Apache-2.0
"""waggle's parser reads a message as the SDK does, and refuses other input with its own message."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp_types import (
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    jsonrpc_message_adapter,
)

from waggle.jsonrpc import INVALID_REQUEST, PARSE_ERROR, Message, NoMessage, read

EMPTY: dict[str, Any] = {}
odd: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
errors = st.fixed_dictionaries({"code": st.integers(), "message": st.text(max_size=3)})
members: dict[str, st.SearchStrategy[Any]] = {
    "jsonrpc": st.just("2.0") | odd,
    "id": st.integers() | st.text(max_size=3) | odd,
    "method": st.just("ping") | odd,
    "params": st.just(EMPTY) | odd,
    "result": st.just(EMPTY) | odd,
    "error": errors | odd,
}
messages = st.fixed_dictionaries({}, optional=members)


def by_sdk(data: bytes) -> JSONRPCMessage | None:
    try:
        return jsonrpc_message_adapter.validate_json(data, by_name=False)
    except pydantic.ValidationError:
        return None


@given(messages | odd)
@example({"jsonrpc": "2.0", "id": 1, "method": "ping"})
@example({"jsonrpc": "2.0", "method": "ping"})
@example({"jsonrpc": "2.0", "id": 1, "result": {}})
@example({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": ""}})
@example({"jsonrpc": "2.0", "id": 1.0, "method": "ping"})
@example({"jsonrpc": "2.0", "id": 1, "method": None, "result": {}})
@example({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}})
@example({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": None, "error": None})
@example({"jsonrpc": "2.0", "id": 0, "method": "", "error": {"code": 0, "message": ""}})
def test_the_sdk_reads_the_same_message(value: object) -> None:
    data = json.dumps(value).encode()
    found, taken = read(data, "line"), by_sdk(data)
    if isinstance(found, NoMessage):
        assert len(found.why) < 200
        # The SDK accepts more than a client can have meant, but no good request.
        assert not isinstance(taken, JSONRPCRequest) or "result" in value or "error" in value  # type: ignore[operator]  # a request is a dict
        return
    assert taken is not None
    if isinstance(taken, JSONRPCRequest):
        assert found == Message(taken.method, taken.id, taken.params or {})
    elif isinstance(taken, JSONRPCNotification):
        assert found == Message(taken.method, None, taken.params or {})
        assert "id" not in json.loads(data)
    else:
        assert found.method is None


@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert isinstance(read(data, "body"), Message | NoMessage)


@pytest.mark.parametrize("number", [7, "a", "\U0001f600"])
@pytest.mark.parametrize("half", ["\ud83d", "b\ude00", "\ud83db"])
def test_a_lone_surrogate_is_refused_with_the_request_id(number: int | str, half: str) -> None:
    message = {"jsonrpc": "2.0", "id": number, "method": "ping", "params": {"a": half}}
    found = read(json.dumps(message).encode(), "body")
    assert isinstance(found, NoMessage)
    assert (found.id, found.code) == (number, PARSE_ERROR)
    assert found.why.startswith("The body has a lone surrogate in it")


@pytest.mark.parametrize("answer", [{"result": {}}, {"error": {"code": 1, "message": "no"}}])
def test_a_request_that_is_an_answer_too_is_refused_by_its_id(answer: dict[str, object]) -> None:
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", **answer}
    found = read(json.dumps(message).encode(), "body")
    assert isinstance(found, NoMessage)
    assert (found.id, found.code) == (7, INVALID_REQUEST)
    assert "a request or an answer" in found.why


def test_a_request_may_say_that_it_has_no_result_and_no_error() -> None:
    """Clients with one type for all messages write these."""
    message = {"jsonrpc": "2.0", "id": 7, "method": "ping", "result": None, "error": None}
    assert read(json.dumps(message).encode(), "body") == Message("ping", 7, {})


def test_a_lone_surrogate_is_no_id() -> None:
    found = read(b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}', "line")
    assert isinstance(found, NoMessage)
    assert found.id is None


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'"\xff"', b'{"id": 1, "n": ' + b"1" * 5_000 + b"}"]
)
def test_an_unreadable_message_has_no_id(data: bytes) -> None:
    found = read(data, "line")
    assert isinstance(found, NoMessage)
    assert (found.id, found.code) == (None, PARSE_ERROR)


@pytest.mark.parametrize("number", ["{}", "[]", "true", "null", "1.5", "1e400"])
def test_an_impossible_id_is_refused_and_named(number: str) -> None:
    found = read(b'{"jsonrpc": "2.0", "id": %s, "method": "ping"}' % number.encode(), "line")
    assert isinstance(found, NoMessage)
    assert found.code == INVALID_REQUEST
    assert "id of a request" in found.why
