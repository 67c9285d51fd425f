# SPDX-License-Identifier: Apache-2.0
"""The remembered jobs of one environment, within bounds. `JobService` has one for each."""

from __future__ import annotations

from dataclasses import dataclass, field

from waggle.domain.programs.context import SPARE_CONTEXT, ContextKey
from waggle.service.programs import Job

MAX_REMEMBERED = 100
"""The most jobs of one environment whose output can still be read."""
MAX_KEPT_BYTES = 64 << 20
"""The most bytes of output kept of one environment's ended jobs."""


@dataclass(slots=True)
class JobTable:
    """The jobs of one environment, oldest first.

    `last` is the highest number; `used_spare` says that the spare context of its template is a job.
    """

    by_number: dict[int, Job] = field(default_factory=dict[int, Job])
    last: int = 0
    used_spare: bool = False

    def add(self, job: Job) -> None:
        """Add a job, and forget the oldest ended ones until the rest is within the bounds."""
        self.by_number[job.number] = job
        self.last = max(self.last, job.number)
        self.used_spare |= job.run_id == SPARE_CONTEXT
        self.trim()

    def contexts(self) -> dict[ContextKey, Job]:
        """Return the contexts that live."""
        found = {job.what.context: job for job in self.by_number.values() if job.is_context}
        return {key: job for key, job in found.items() if key is not None}

    def trim(self) -> None:
        """Forget the oldest ended jobs until the rest is within the bounds."""
        ended = [job for job in self.by_number.values() if not job.is_running]
        kept = sum(job.kept_bytes for job in ended)
        for job in ended:
            if len(self.by_number) <= MAX_REMEMBERED and kept <= MAX_KEPT_BYTES:
                break
            kept -= job.kept_bytes
            self.by_number.pop(job.number).close()
