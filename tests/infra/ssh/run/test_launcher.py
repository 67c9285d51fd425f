# SPDX-License-Identifier: Apache-2.0
"""The record of a failed run, as the launcher writes it and as a hostile root might."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.diagnosis import NO_RECORD, RunFacts, Space
from waggle.infra.ssh.run.launcher import MAX_RECORD, parse_record

ID = "0b7c1f6e-0000-4000-8000-0123456789ab"
GOOD = f"""id {ID}
exit 127
exec 2
directory 20
file /home/sandbox/a b
needs /usr/bin/python9
oom 1
memory 2 3 4
forks 5 1024
unrouted 6
unheard 7
disk 8 9
inodes 10 11
shm 12 13
have ps apt-get
""".encode()


def test_a_record_is_parsed() -> None:
    assert parse_record(GOOD, ID) == RunFacts(
        exit_code=127,
        exec_error=2,
        directory_error=20,
        file="/home/sandbox/a b",
        needs="/usr/bin/python9",
        oom_kills=1,
        memory_peak=2,
        memory_limit=3,
        memory_shared=4,
        forks_refused=5,
        process_limit=1024,
        disk=Space(8, 9),
        inodes=Space(10, 11),
        shm=Space(12, 13),
        unrouted=6,
        unheard=7,
        have=frozenset({"ps", "apt-get"}),
    )


def test_a_carriage_return_in_the_interpreter_is_reported() -> None:
    record = parse_record(GOOD.replace(b"needs", b"crlf"), ID)
    assert (record.needs, record.needs_carriage_return) == ("/usr/bin/python9", True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"id\n",
        GOOD.replace(ID.encode(), b"another"),
        GOOD.removesuffix(b"\n"),
        GOOD + b"oom 1\n",
        GOOD + b"have ps\n",
        GOOD + b"new 1\n",
        GOOD + b"signal -9\n",
        GOOD + b"signal 9 9\n",
        GOOD + b"signal \n",
        GOOD + "signal ٩\n".encode(),
        GOOD + b"signal " + b"9" * 21 + b"\n",
        GOOD.replace(b"python9", b"p" * 600),
        GOOD + b"x" * MAX_RECORD,
    ],
)
def test_anything_else_is_no_record(data: bytes) -> None:
    assert parse_record(data, ID) is NO_RECORD


@given(st.binary(), st.integers(0, len(GOOD)))
def test_a_damaged_record_never_raises(damage: bytes, at: int) -> None:
    record = parse_record(GOOD[:at] + damage + GOOD[at:], ID)
    assert record.oom_kills < 10**20
    assert len(record.file) <= 512
