# SPDX-License-Identifier: Apache-2.0
"""Jobs for tests that talk to a guest without the services above it."""

from __future__ import annotations

import uuid

from waggle.domain.programs import Command
from waggle.domain.programs.guest_job import Attributes, FoundJob, GuestJob, JobStreams
from waggle.infra.ssh.run.launcher import OutputCollector

LIMIT = 200_000


def job(command: Command, attributes: Attributes | None = None, note: bytes = b"") -> GuestJob:
    """Return a job that was not started yet, with output in memory."""
    return GuestJob(
        str(uuid.uuid4()),
        command,
        _streams(),
        command.timeout,
        attributes or Attributes(),
        note,
    )


def again(found: FoundJob | GuestJob, timeout: float = 60.0) -> GuestJob:
    """Return a job that its guest has, as another server would follow it: from its beginning."""
    return GuestJob(found.id, Command(("x",), timeout), _streams(), timeout, is_started=True)


def _streams() -> JobStreams:
    return JobStreams(*(OutputCollector(LIMIT) for _ in range(3)))
