# SPDX-License-Identifier: Apache-2.0
"""Inputs that are nearly good: what a decoder takes, with a few places changed.

A test of the mark `fuzz` runs `fuzzed` once for each of TURNS, which makes 100,000 inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_Test = TypeVar("_Test", bound=Callable[..., None])
_PER_TURN = 5_000
TURNS = range(20)


def fuzzed(test: _Test) -> _Test:
    """Run it with as many inputs as one turn has, whatever time they take."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.nested_given]
    return settings(
        max_examples=_PER_TURN, deadline=None, database=None, suppress_health_check=checks
    )(test)


_Edit = tuple[int, int, bytes]
_INTERESTING = [b"\0", b"\xff" * 4, b"0", b"/", b"..", b"\x7f\xff\xff\xff", b"9" * 20, b"-1", b" "]


def mutated(
    seeds: Sequence[bytes], repair: Callable[[bytes], bytes] = bytes
) -> st.SearchStrategy[bytes]:
    """One of the seeds with up to six edits; every other one is then repaired."""
    put = st.one_of(st.sampled_from(_INTERESTING), st.binary(max_size=8))
    edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), put), max_size=6)

    def make(seed: bytes, made: list[_Edit], mends: bool) -> bytes:
        data = _edited(seed, made)
        return repair(data) if mends else data

    return st.builds(make, st.sampled_from(list(seeds)), edits, st.booleans())


def _edited(data: bytes, edits: Sequence[_Edit]) -> bytes:
    for place, cut, put in edits:
        at = place % (len(data) + 1)
        data = data[:at] + put + data[at + cut :]
    return data
