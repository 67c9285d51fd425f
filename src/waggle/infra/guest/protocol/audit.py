# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of the notification `audit`."""

from __future__ import annotations

from waggle.infra.guest.protocol.fields import Name, Result, Seconds
from waggle.infra.guest.protocol.system import MountPoint


class Audit(Result):
    """A request that the agent has carried out, or refused.

    `outcome` is `ok` or the name of an error, `subject` what it was about: a path, or a program.
    """

    method: Name
    outcome: Name
    subject: MountPoint
    seconds: Seconds
