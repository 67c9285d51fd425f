# SPDX-License-Identifier: Apache-2.0
"""When and how long to wait before a failed request is tried again.

Called by `client` and `blobs`. The decision is pure; `retrying` acts on it with an injected
sleep.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from waggle.domain.errors import RegistryBusy
from waggle.infra.oci.registry.options import Ambient, RegistryOptions

_T = TypeVar("_T")
_SECONDS = re.compile(r"[0-9]{1,9}")

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transient(Exception):
    """A failure that may pass. `text` is for a message; `wait` is what the registry asked for."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.text = text
        self.wait = wait


def retry_after(value: str, now: float) -> float:
    """Read a Retry-After header, seconds or a date, as seconds from `now`; 0 when it says nothing.

    Not bounded: `pause` does that.
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def pause(failures: int, wait: float, chance: float, options: RegistryOptions) -> float:
    """Return the seconds to wait after the `failures`-th failure in a row (1 is the first).

    Half of the exponential pause is certain and half is jitter, so that clients that failed
    together do not come back together. What the registry asked for is a lower bound, up to the
    longest pause that we accept.
    """
    usual = options.first_pause * 2 ** min(failures - 1, 30)
    jittered = min(usual, options.longest_pause) * (0.5 + 0.5 * chance)
    return max(jittered, min(wait, options.longest_pause))


async def retrying(
    work: Callable[[], Awaitable[_T]],
    options: RegistryOptions,
    ambient: Ambient,
    progressed: Callable[[], bool] = lambda: False,
) -> _T:
    """Run `work` until it raises no Transient, at most `options.attempts` times in a row.

    `progressed()` says whether a failed attempt got so far that counting starts anew. Raises
    RegistryBusy with the last failure's text.
    """
    failures = 0
    while True:
        try:
            return await work()
        except Transient as error:
            failures = 1 if progressed() else failures + 1
            if failures >= options.attempts:
                raise RegistryBusy(error.text) from error
            seconds = pause(failures, error.wait, ambient.chance(), options)
        await ambient.sleep(seconds)
