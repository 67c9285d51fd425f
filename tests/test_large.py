# SPDX-License-Identifier: Apache-2.0
"""A large message is read as a parser would read it, and the SDK gets a small one instead."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from waggle.jsonrpc import INVALID_REQUEST, PARSE_ERROR, NoMessage
from waggle.large import MAX_TEXT, Large, Sizes, TooLarge, read_large
from waggle.structure import LONG, Structure

SIZES = Sizes(2_000_000, {"write_file"})


def large(text: bytes, sizes: Sizes = SIZES) -> Large | NoMessage:
    structure = Structure()
    structure.feed(text)
    return read_large(bytearray(text), structure.long, "body", sizes, lambda: None)


def call(arguments: object, tool: str = "write_file", **more: object) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": 4}}
    return {"jsonrpc": "2.0", "id": "seven", "method": "tools/call", "params": params, **more}


def encoded(message: object, *, plain: bool = True) -> bytes:
    return json.dumps(message, ensure_ascii=plain).encode()


TEXTS = {
    "letters": "a" * (3 * LONG),
    "lines": "line\n" * LONG,
    "quotes": '"' * (2 * LONG),
    "backslashes": "\\" * (2 * LONG + 1),
    "accents": "\u00e9" * (2 * LONG),
    "euros": "a\u20ac" * (2 * LONG),
    "pairs": "\U0001f600" * (2 * LONG),
    "mixed": 'a\\u"\u00e9\u20ac\U0001f600\n\\' * LONG,
}


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("shift", range(3))
def test_long_strings_arrive_unchanged(kind: str, plain: bool, shift: int) -> None:
    content = "x" * shift + TEXTS[kind]
    arguments = {"path": "a", "content": content, "files": [{"b": content}], "deep": {"c": [1, 2]}}
    found = large(encoded(call(arguments), plain=plain), Sizes(1 << 26, ()))
    assert isinstance(found, Large)
    assert found.arguments == arguments
    message = json.loads(found.text)
    assert message == call({"path": "a"})
    assert found.message.id == "seven"


@pytest.mark.parametrize("seed", range(20))
def test_strings_of_any_characters_arrive_unchanged(seed: int) -> None:
    chance = random.Random(seed)
    letters = 'ab"\\/\n\t\u00e9\u07ff\u0800\uffff\U00010000\U0010ffff'
    content = "".join(chance.choices(letters, k=3 * LONG))
    found = large(encoded(call({"content": content}), plain=seed % 2 == 0))
    assert isinstance(found, Large)
    assert found.arguments == {"content": content}


def test_many_small_strings_are_read() -> None:
    arguments = {"files": {f"f{number}": "x" * 1_000 for number in range(500)}}
    found = large(encoded(call(arguments)))
    assert isinstance(found, Large)
    assert found.arguments == arguments


def test_other_messages_stay_whole() -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"a": "x" * 3 * LONG}}
    found = large(encoded(message))
    assert isinstance(found, Large)
    assert (found.arguments, json.loads(found.text)) == (None, message)


@pytest.mark.parametrize("tool, size, refused", [("write_file", 3, False), ("read_file", 3, True)])
def test_only_calls_that_carry_files_may_be_large(tool: str, size: int, refused: bool) -> None:
    found = large(encoded(call({"content": "x" * size * 1_000_000}, tool)))
    assert isinstance(found, TooLarge if refused else Large)
    if isinstance(found, TooLarge):
        assert found.id == "seven"
        assert "write_file" in found.why


LONG_TEXT = "x" * 2 * LONG


@pytest.mark.parametrize(
    "text, code",
    [
        (encoded(call({"a": LONG_TEXT})).replace(b"xxxx", b"\\ud8", 1), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT})).replace(b"xxxxxx", b"\\ud800", 1), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT})).replace(b"xx", b"\xff\xff"), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT})).replace(b"x" * 2 * LONG, b"\x80" * 4 * LONG), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT})).replace(b"xx", b"\\q"), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT})).replace(b"xx", b"x\n", 1), PARSE_ERROR),
        (encoded(call({"a": LONG_TEXT}))[:-2], PARSE_ERROR),
        (encoded(call({LONG_TEXT: 1})), INVALID_REQUEST),
        (encoded(call({"a": 1}, more=LONG_TEXT)), INVALID_REQUEST),
        (encoded(call({"a": LONG_TEXT, "b": "\0long string 0"})), INVALID_REQUEST),
        (encoded(call({LONG_TEXT: "\0long string 9"})), INVALID_REQUEST),
        (encoded(call({LONG_TEXT: "\0long string 99999999"})), INVALID_REQUEST),
        (encoded(call({"content": "x" * (MAX_TEXT + 1)})), INVALID_REQUEST),
    ],
)
def test_an_invalid_large_message_is_refused(text: bytes, code: int) -> None:
    found = large(text)
    assert isinstance(found, NoMessage)
    assert found.code == code


def test_text_that_looks_like_a_mark_stays_text() -> None:
    arguments = {"a": LONG_TEXT, "b": "\0long string 1", "c": ["\0long string x"]}
    found = large(encoded(call(arguments)))
    assert isinstance(found, Large)
    assert found.arguments == arguments
