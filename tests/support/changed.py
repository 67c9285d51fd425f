# SPDX-License-Identifier: Apache-2.0
"""Nearly valid parser inputs, made from valid ones by a seed, and the loop that tries them.

A failure shows the seed and the number of its input, which reproduce it.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

SEED = 20_261_128
LONGEST = 0.25
"""Seconds of processor time for one input."""
MOST_MEMORY = 150 << 20
"""Bytes by which the process may grow while all inputs are tried."""
BLOCK = 512
"""Block size of a tar."""
FRAGMENTS = (
    b"\0", b"\n", b" ", b"\xff\xfe", b"9" * 30, b"-1", b"\xed\xa0\x80", b"x" * 600, b"\x1b[2J",
    b"\r", b"[" * 3_000, b'{"a":' * 3_000, b"\\ud800", b"Infinity", b"1e999", b"null", b"\x80",
)  # fmt: skip
NUMBERS = [
    pytest.param(300, id="some"),
    pytest.param(100_000, id="all", marks=[pytest.mark.fuzz, pytest.mark.timeout(1800)]),
]
"""How many inputs the fast tests try, and how many the tests of the mark `fuzz`."""
_VALUES: Final[list[Any]] = json.loads(
    """[null, true, false, 0, -1, 1099511627776, 1180591620717411303424, 1.5, NaN, Infinity, "",
    "x", "\\u0000", "\\ud800", "../..", "/", [], {}, [[]], [null], {"": {}}, {"a": "\\ud800"}]"""
)
_TEXTS = ("9" * 5_000, "x" * 5_000)


def changed(good: bytes, chance: random.Random, fragments: Sequence[bytes] = FRAGMENTS) -> bytes:
    """Return a valid input with a few mistakes in it."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        at, to = chance.randint(0, len(data)), chance.randint(0, len(data))
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 1:
            del data[min(at, to) : max(at, to)]
        elif kind == 2:
            data[at:at] = chance.choice(fragments)
        elif kind == 3:
            data[at:at] = data[min(at, to) : max(at, to)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(data)


def changed_json(good: Any, chance: random.Random) -> bytes:
    """Return a document with one to three parts replaced or removed, or with damaged bytes."""
    if chance.randrange(3) == 0:
        return changed(json.dumps(good).encode(), chance)
    document = copy.deepcopy(good)
    for _ in range(chance.randint(1, 3)):
        if document:
            document = _replaced(document, chance)
    return json.dumps(document).encode()


def _replaced(document: Any, chance: random.Random) -> Any:
    """Descend to a random depth, and replace or remove a value there."""
    node: Any = document
    while True:
        key = chance.choice([*node] if _kind(node) is dict else [*range(len(node))])
        inner = node[key]
        if not (_kind(inner) in (dict, list) and inner) or chance.randrange(4) == 0:
            break
        node = inner
    if _kind(node) is dict and chance.randrange(5) == 0:
        del node[key]
    else:
        node[key] = copy.deepcopy(chance.choice([*_VALUES, *_TEXTS]))
    return document


def _kind(value: Any) -> type[Any]:
    return type(value)  # pyright: ignore[reportUnknownVariableType]


def mended(data: bytes) -> bytes:
    """Return a tar with correct checksums in all blocks that look like headers."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return b"".join(_summed(block) if b"ustar" in block[250:270] else block for block in blocks)


def _summed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]


def _check_words(text: str, data: bytes) -> None:
    assert text.isprintable(), (SEED, text[:4_000], data[:2_000])
    assert len(text) < 2_000, (SEED, text[:4_000], data[:2_000])


def attempts(
    count: int,
    make: Callable[[random.Random], bytes],
    attempt: Callable[[bytes], None],
    refusals: tuple[type[Exception], ...] = (),
) -> None:
    """Try `count` inputs: each must be accepted, or refused briefly and printably, and in time.

    Raises AssertionError, also if the process grows or no input is refused at all.
    """
    chance = random.Random(SEED)
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(count):
        data = make(chance)
        began = time.thread_time()
        try:
            attempt(data)
        except refusals as error:
            refused += 1
            _check_words(str(error), data)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, input {number}: {data[:2_000]!r}") from error
        assert time.thread_time() - began < LONGEST, (SEED, number, data[:2_000])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MOST_MEMORY, f"{grown >> 20} MiB"
    assert refused or not refusals
