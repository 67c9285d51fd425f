# SPDX-License-Identifier: Apache-2.0
"""All network rules that are not an environment's own: the operator's, and approved ones.

The composition root builds `OperatorRules`; the proxies' judges are made of it. Two files: the
operator's own, which is only read, and one in the data directory, which the server writes: what
people allowed for always when they were asked, by owner, since owners must not open the network for
each other. Knows no settings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import anyio

from waggle.domain.access import parse_owner
from waggle.domain.errors import QuotaExceeded, SettingsInvalid
from waggle.domain.network import parse_set_name
from waggle.domain.network.rules import Rule
from waggle.infra.access.rules_file import NOTHING, Bounds, RuleSets, RulesFile

RULES: Final = "rules"
APPROVED: Final = "approved"
MAX_APPROVED: Final = 500
"""The most rules that may be allowed for always for one owner, whatever others have."""
_BOUNDS: Final = Bounds(size=64 << 20, is_by_set=True)
"""Some hundred owners, each with the most rules of the greatest length."""


class OperatorRules:
    """The rules of both files; `domain.network.judging` says what they mean."""

    def __init__(
        self,
        path: Path | None,
        approved: Path | None,
        *,
        required: Iterable[str] = (),
        monotonic: Callable[[], float],
    ) -> None:
        """`path` is the operator's file, `approved` the server's own; None means no such file.

        `required` are the names that the settings use. Raises SettingsInvalid if a file cannot be
        used or lacks one of them.
        """
        names = frozenset(required)
        if path is None and names:
            raise SettingsInvalid(
                f"WAGGLE_DEFAULT_NETWORK or WAGGLE_MAX_NETWORK name @{min(names)}, but there is no "
                "file of rules.",
                hint="WAGGLE_NETWORK_RULES names it.",
            )
        self._file = path and RulesFile(
            path, RULES, parse_set_name, monotonic=monotonic, required=names
        )
        self._approved = approved and RulesFile(
            approved, APPROVED, parse_owner, monotonic=monotonic, may_miss=True, bounds=_BOUNDS
        )
        self._writing = anyio.Lock()

    @property
    def version(self) -> int:
        """A number that changes with the rules of either file."""
        return sum(file.version for file in (self._file, self._approved) if file)

    @property
    def problems(self) -> list[str]:
        """Why files are not in use as they are now."""
        files = [file for file in (self._file, self._approved) if file]
        return [file.problem for file in files if file.problem]

    def reread(self) -> str | None:
        """Read the operator's file now, if there is one. Return why it cannot be used, or None."""
        return self._file.reread() if self._file else None

    def sets(self) -> RuleSets:
        """Return the operator's rules by name."""
        return self._file.sets if self._file else NOTHING

    def approved(self, owner: str) -> Sequence[Rule]:
        """Return what was allowed for always for the environments of this owner."""
        return self._approved.sets.get(owner, ()) if self._approved else ()

    async def approve(self, owner: str, rule: Rule) -> None:
        """Add a rule to what is allowed for always for this owner. Idempotent.

        Finishes writing when cancelled. Raises QuotaExceeded, OSError, or SettingsInvalid if the
        file cannot be used since somebody changed it.
        """
        if (file := self._approved) is None:
            raise RuntimeError("there is no file for it")
        async with self._writing:
            now = file.sets
            if file.problem is not None:
                raise SettingsInvalid(file.problem)
            own = now.get(owner, ())
            if rule in own:
                return
            sets = MappingProxyType({**now, owner: (*own, rule)})
            data = _written(sets)
            if len(own) >= MAX_APPROVED or len(data) > file.bounds.size:
                raise QuotaExceeded(
                    f"{len(own)} rules are allowed for always; no more can be.",
                    hint=f"The operator can remove some from {file.path}.",
                )
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(file.replace, sets, data)


def _written(sets: RuleSets) -> bytes:
    """Return the file's text: JSON's strings and lists are TOML's, too."""
    lines = ["# Rules that people allowed for always when they were asked, by owner."]
    lines += ["# The server writes this file, and reads it again when it was changed.", ""]
    lines += [f"[{APPROVED}]"]
    for owner, rules in sets.items():
        lines += [f"{json.dumps(owner)} = [", *(f"  {json.dumps(str(r))}," for r in rules), "]"]
    return ("\n".join(lines) + "\n").encode("ascii")
