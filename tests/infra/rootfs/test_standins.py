# SPDX-License-Identifier: Apache-2.0
"""Addresses that stand for names: the kit's code (kit/guest/names.c), compiled for this host."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.programs import program

from waggle.infra.rootfs.kit import GUEST_SOURCES

FIRST = 0xC6120100
MAX_NAMES = 8192
RANGE = 0x20000 - 512
CLOCK = "long long clock_ms = 1; long long milliseconds(void) { return clock_ms; }\n"
FOUND, NOTHING, UNKNOWN = 1, 3, 0
Open = Callable[[], "Names"]


class Names:
    """One process that has the table open."""

    def __init__(self, library: Path) -> None:
        self._loaded = ctypes.CDLL(str(library))
        self._loaded.name_of.restype = ctypes.c_char_p
        self._loaded.standin_for.restype = ctypes.c_uint32
        self._loaded.open_names.restype = ctypes.c_bool
        assert self._loaded.open_names()

    def standin(self, name: str) -> int:
        return int(self._loaded.standin_for(name.encode()))

    def name(self, address: int) -> str | None:
        found: bytes | None = self._loaded.name_of(ctypes.c_uint32(address))
        return None if found is None else found.decode()

    def learn(self, name: str, answer: int, seconds: int) -> None:
        self._loaded.learn(name.encode(), answer, seconds)

    def known(self, name: str) -> tuple[int, int]:
        seconds = ctypes.c_uint()
        return int(self._loaded.known(name.encode(), ctypes.byref(seconds))), seconds.value

    def later(self, seconds: int) -> None:
        clock = ctypes.c_longlong.in_dll(self._loaded, "clock_ms")
        clock.value += 1000 * seconds


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A function that opens the table of this test, each time as a new process would."""
    source, table = tmp_path / "clock.c", tmp_path / "table"
    source.write_text(CLOCK)
    count = 0

    def make() -> Names:
        nonlocal count
        count += 1
        library = tmp_path / f"names{count}.so"
        checks = ["-fsanitize=bounds,undefined", "-fsanitize-undefined-trap-on-error"]
        subprocess.run(
            [
                *(program("cc"), "-shared", "-fPIC", "-D_GNU_SOURCE", *checks),
                *(f'-DNAMES_FILE="{table}"', "-o", str(library), str(source)),
                *(str(GUEST_SOURCES / name) for name in ("names.c", "common.c")),
            ],
            check=True,
        )
        return Names(library)

    return make


def test_a_name_has_one_address_and_an_address_one_name(opened: Open) -> None:
    names = opened()
    first, second = names.standin("a.test"), names.standin("b.test")
    assert (first, second) == (FIRST, FIRST + 1)
    assert names.standin("a.test") == first
    assert (names.name(first), names.name(second)) == ("a.test", "b.test")
    for nobodys in (FIRST + 2, FIRST - 1, 0xC6120001, 0xC6120001 + MAX_NAMES, 0, 0x08080808):
        assert names.name(nobodys) is None


def test_names_keep_their_addresses_beyond_a_process(opened: Open) -> None:
    before = opened()
    addresses = [before.standin(f"n{number}.test") for number in range(50)]
    after = opened()
    assert [after.standin(f"n{number}.test") for number in range(50)] == addresses
    assert after.name(addresses[7]) == "n7.test"
    assert after.standin("new.test") == addresses[-1] + 1


def test_the_oldest_names_make_room_and_their_addresses_are_nobodys(opened: Open) -> None:
    names = opened()
    addresses = [names.standin(f"n{number}.test") for number in range(MAX_NAMES + 10)]
    assert len(set(addresses)) == MAX_NAMES + 10
    assert names.name(addresses[9]) is None
    assert names.name(addresses[10]) == "n10.test"
    assert names.name(addresses[-1]) == f"n{MAX_NAMES + 9}.test"
    assert names.standin("n0.test") not in addresses, "it gets another one"


def test_addresses_stay_in_their_range_when_all_have_been_given(opened: Open) -> None:
    names = opened()
    addresses = {names.standin(f"n{number}.test") for number in range(RANGE + 100)}
    assert min(addresses) == FIRST
    assert max(addresses) < FIRST + RANGE
    last = names.standin(f"n{RANGE + 99}.test")
    assert names.name(last) == f"n{RANGE + 99}.test"


def test_a_damaged_table_is_no_fault(opened: Open, tmp_path: Path) -> None:
    opened().standin("a.test")
    table = tmp_path / "table"
    for damage in (b"\xff" * 4, b"\x01\0\0\0", b"\x00\x20\0\0"):
        table.write_bytes(damage + b"\xff" * 1000 + b"x" * (table.stat().st_size - 1004))
        names = opened()
        address = names.standin("b.test")
        assert names.name(address) == "b.test"


def test_answers_are_remembered_for_their_time(opened: Open) -> None:
    names = opened()
    assert names.known("a.test")[0] == UNKNOWN
    names.learn("a.test", FOUND, 10)
    names.learn("b.test", NOTHING, 5)
    names.later(4)
    assert names.known("a.test") == (FOUND, 6)
    assert names.known("b.test") == (NOTHING, 1)
    names.later(1)
    assert names.known("b.test")[0] == UNKNOWN
    assert names.known("a.test") == (FOUND, 5)
