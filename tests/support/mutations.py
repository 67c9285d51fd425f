# SPDX-License-Identifier: Apache-2.0
"""Nearly valid inputs: accepted by a decoder before a few places were changed.

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
    """Run the test with the inputs of one turn, without a time limit."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.nested_given]
    return settings(
        max_examples=_PER_TURN, deadline=None, database=None, suppress_health_check=checks
    )(test)


_Edit = tuple[int, int, bytes]
_INTERESTING = [b"\0", b"\xff" * 4, b"0", b"/", b"..", b"\x7f\xff\xff\xff", b"9" * 20, b"-1", b" "]


def mutated(
    seeds: Sequence[bytes], repair: Callable[[bytes], bytes] = bytes
) -> st.SearchStrategy[bytes]:
    """Return one of the seeds with up to six edits, repaired in half of the cases."""
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
