# SPDX-License-Identifier: Apache-2.0
"""The launcher's list of programs left running is parsed strictly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.programs import NOTHING_LEFT, Left, Program
from waggle.infra.ssh.run.launcher import MAX_LEFT, parse_left

RUN = "00000000-1111-2222-3333-444444444444"
LIST = f"{RUN} 12 python3 -m http.server\n{RUN} 345 sleep 9\nall 3\n".encode()
LEFT = Left((Program(12, "python3 -m http.server", RUN), Program(345, "sleep 9", RUN)), 3)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    left = parse_left(data)
    assert left.count >= len(left.programs)


def test_a_program_without_a_name_has_already_ended() -> None:
    assert parse_left(f"{RUN} 7 \n".encode() + LIST.replace(b"all 3", b"all 4")) == LEFT
    assert parse_left(f"{RUN} 7 \nall 1\n".encode()) == NOTHING_LEFT


def test_a_malformed_list_counts_as_empty() -> None:
    assert parse_left(LIST) == LEFT
    for data in (
        b"",
        b"all 1",
        b"all x\n",
        LIST[:-1],
        LIST.replace(b"all 3", b"all 1"),
        LIST + b"more\n",
        LIST.replace(b" 12 ", b" 12345678 "),
        f"{RUN} 1 {'x' * MAX_LEFT}\nall 1\n".encode(),
    ):
        assert parse_left(data) == NOTHING_LEFT


def test_the_guests_words_are_cleaned_and_cut() -> None:
    (program,) = parse_left(f"{RUN} 1 a\x1b[31m\u202e\r{'b' * 300}\nall 1\n".encode()).programs
    assert program.command.startswith("a\ufffd[31m\ufffd\ufffdb")
    assert len(program.command) == 200


def test_the_programs_of_given_runs_are_excluded() -> None:
    other = Program(7, "x", "f" * 36)
    left = Left((*LEFT.programs, other), 4)
    assert left.without(frozenset({RUN})) == Left((other,), 2)
    assert left.of(other.run_id) == (other,)
