# SPDX-License-Identifier: Apache-2.0
"""A runner's configuration arrives as it was sent, and no other bytes are accepted as one."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.krun.runner import Configuration, decode, encode

KINDS: dict[str, str] = Configuration.__annotations__
TEXTS = st.binary(max_size=60).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
VALUES: dict[str, st.SearchStrategy[str | int]] = {
    name: TEXTS if kind == "str" else st.integers() for name, kind in KINDS.items()
}


def fields() -> dict[str, str | int]:
    return {name: "x=\n" if kind == "str" else -1 for name, kind in KINDS.items()}


@given(values=st.fixed_dictionaries(VALUES))
def test_a_configuration_survives_a_round_trip(values: dict[str, str | int]) -> None:
    sent = Configuration(**values)
    received = decode(encode(sent))
    for name, value in vars(sent).items():
        arrived = getattr(received, name)
        assert type(arrived) is type(value)
        # Two texts may stand for the same path, so compare the bytes.
        if isinstance(value, str):
            assert os.fsencode(arrived) == os.fsencode(value)
        else:
            assert arrived == value


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(data)


@given(st.data())
def test_a_truncated_message_is_refused(data: st.DataObject) -> None:
    whole = encode(Configuration(**fields()))
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises((ValueError, TypeError)):
        decode(whole[:size])


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_needed_and_has_its_type(name: str) -> None:
    values = fields()
    value = values.pop(name)
    with pytest.raises(TypeError, match=name):
        Configuration(**values)
    with pytest.raises(TypeError, match=name):
        Configuration(**values, **{name: 1 if isinstance(value, str) else "1"})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="memory_mb"):
        Configuration(**fields(), memory_mb=1)
    with pytest.raises(TypeError, match="memory_mb"):
        decode(encode(Configuration(**fields())) + b"memory_mb=1\0")


def test_true_is_not_accepted_as_a_number() -> None:
    with pytest.raises(TypeError, match="cpus"):
        Configuration(**fields() | {"cpus": True})


def test_a_number_that_is_none_is_refused() -> None:
    sent = encode(Configuration(**fields())).replace(b"cpus=-1", b"cpus=two")
    with pytest.raises(ValueError, match="two"):
        decode(sent)


def test_nul_in_a_field_is_refused() -> None:
    hostile = Configuration(**fields() | {"command_line": "quiet\0uid=0"})
    with pytest.raises(ValueError, match="NUL"):
        encode(hostile)
