# SPDX-License-Identifier: Apache-2.0
"""The release of an error's traceback, so that it holds no memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from tests.support.garbage import Held, no_collection

from waggle.domain.observer import release


def _fails(held: Held) -> None:
    try:
        raise KeyError(held.__class__.__name__)
    except KeyError as error:
        raise ValueError("why") from error


@contextmanager
def _in_a_group() -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise ExceptionGroup("of one", [error]) from None


@pytest.mark.parametrize("is_grouped", [False, True])
def test_objects_in_the_frames_of_a_kept_error_are_freed(is_grouped: bool) -> None:
    held = Held()
    kept: Exception | None = None
    with no_collection():
        try:
            if is_grouped:
                with _in_a_group():
                    _fails(held)
            else:
                _fails(held)
        except (ValueError, ExceptionGroup) as error:
            kept = error
        there = held.there
        del held
        assert there(), "its frames hold it"
        assert kept is not None
        release(kept)
        assert not there()
    assert "why" in repr(kept)
