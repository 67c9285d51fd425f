# SPDX-License-Identifier: Apache-2.0
"""What an error holds besides its words, and how to let go of it."""

from __future__ import annotations

from typing import cast


def release(error: BaseException) -> None:
    """Drop the traces of `error` and of all that led to it, once nobody will log them.

    Traces hold the frames that the error passed, so all that these worked on, such as an upload;
    a future or a frame that holds the error makes it a cycle, and the collector comes late.
    """
    seen, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        if isinstance(one, BaseExceptionGroup):
            left += cast("BaseExceptionGroup[BaseException]", one).exceptions
        left += filter(None, (one.__cause__, one.__context__))
