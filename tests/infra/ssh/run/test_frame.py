# SPDX-License-Identifier: Apache-2.0
"""The frame with the launcher's instructions: no field can be mistaken for another."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.programs import Command, GuestUser
from waggle.infra.ssh.run.launcher import frame

words = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=20)


@given(
    argv=st.lists(words, min_size=1, max_size=8),
    cwd=st.none() | words,
    code=st.none() | st.binary(),
    user=st.sampled_from(GuestUser),
    apart=st.booleans(),
)
def test_a_frame_can_be_parsed_again(
    argv: list[str], cwd: str | None, code: bytes | None, user: GuestUser, apart: bool
) -> None:
    data = frame(Command(tuple(argv), 1.0, 1, code=code, cwd=cwd, user=user, apart=apart))
    (size,) = struct.unpack_from(">I", data)
    assert len(data) == size + 4
    fields = data[4:].split(b"\0")[:-1]
    assert [field[1:].decode() for field in fields if field[:1] == b"a"] == argv
    directories = [field[1:].decode() for field in fields if field[:1] == b"d"]
    assert directories == ([] if cwd is None else [cwd])
    assert (b"r" in fields) == (user is GuestUser.ROOT)
    sizes = [field[1:] for field in fields if field[:1] == b"c"]
    assert sizes == ([] if code is None else [str(len(code)).encode()])
    assert (b"o" in fields) == (apart and code is not None)
