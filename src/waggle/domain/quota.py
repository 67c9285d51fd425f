# SPDX-License-Identifier: Apache-2.0
"""What one owner may hold of what all owners share. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waggle.domain.errors import QuotaExceeded

SeveralOwners = Callable[[], bool]
"""Whether more than one owner may call now: tokens come and go while a server runs."""


def one_owner() -> bool:
    """The `SeveralOwners` of a server on which everybody is the same owner."""
    return False


def share_of(whole: int, *, several: bool) -> int:
    """What one owner may hold of a whole: all of it, or half where others may want some, too.

    At least 1, so that everybody may have something; half of an odd number is rounded up.
    """
    return max(1, whole - whole // 2) if several else whole


@dataclass(frozen=True, slots=True)
class Quota:
    """How many of one thing one owner may hold, and what he does who holds them all.

    `what` is plural, `setting` the operator's variable for it, `next_step` a sentence.
    """

    what: str
    most: int
    setting: str
    next_step: str

    def require(self, owner: str, held: int, more: int = 1) -> None:
        """Raise QuotaExceeded unless `more` fit beside those that the owner holds."""
        if held + more <= self.most:
            return
        wanted = "" if more == 1 else f" {more} more do not fit."
        raise QuotaExceeded(
            f"Owner {owner} has {held} of the {self.most} {self.what} that one owner may have."
            f"{wanted}",
            hint=f"{self.next_step} The operator's limit is {self.setting}.",
        )
