# SPDX-License-Identifier: Apache-2.0
"""What a guest agent notes of the requests it carries out, where its policy sends that to the host.

Used by `client`. A guest may send such notifications without end and about anything: they are
checked, cleaned, and passed on at a bounded rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from waggle.infra.guest.answers import Notice, clean
from waggle.infra.guest.protocol.audit import Audit

PER_SECOND: Final = 50
BURST: Final = 200
MAX_SUBJECT: Final = 512
_MAX_WORD: Final = 64


class Auditor:
    """Passes on the notifications `audit`, at most PER_SECOND of them after the first BURST."""

    def __init__(
        self,
        report: Callable[[Audit], None] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` returns seconds."""
        self._report = report
        self._now = now
        self._then = now()
        self._credit = float(BURST)
        self.missed = 0
        """How many were not passed on, since they came too fast."""

    def hear(self, notice: Notice) -> None:
        """Take a notification of any kind."""
        if notice.method != "audit" or self._report is None:
            return
        now = self._now()
        self._credit = min(BURST, self._credit + (now - self._then) * PER_SECOND)
        self._then = now
        if self._credit < 1:
            self.missed += 1
            return
        self._credit -= 1
        try:
            said = Audit.model_validate(notice.params)
        except ValidationError:
            return
        shown = {
            "method": clean(said.method, _MAX_WORD),
            "outcome": clean(said.outcome, _MAX_WORD),
            "subject": clean(said.subject, MAX_SUBJECT),
        }
        self._report(said.model_copy(update=shown))
