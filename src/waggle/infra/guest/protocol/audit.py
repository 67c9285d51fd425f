# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of the notification `audit`."""

from __future__ import annotations

from waggle.infra.guest.protocol.fields import Count, Name, Result, Seconds, Text


class Audit(Result):
    """A request that the agent has carried out or refused, for which it took so many seconds.

    `outcome` is `ok` or the name of the error, `subject` what it was about: a path, or a program.
    `lost` is how many such notes before this one could not be sent.
    """

    method: Name
    outcome: Name
    subject: Text
    seconds: Seconds
    lost: Count = 0
