# SPDX-License-Identifier: Apache-2.0
"""The operator's part in what environments reach: named rules, the maximum, and ports. Pure.

The composition root makes one `Judges` for all environments from the settings; each proxy asks it
for a judge whenever its environment's network or the operator's rules have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from waggle.domain.network import PACKAGES, PUBLIC_NETWORK, Default, Network
from waggle.domain.network.judging import NO_SETS, WEB, Judge
from waggle.domain.network.rules import Rule

USUAL_PORTS: Final = frozenset({22, 80, 443, 3306, 5432, 6379, 8080, 8443, 9418})
"""The ports that rules may open unless the operator says otherwise."""


class RuleBook(Protocol):
    """The operator's named rules."""

    @property
    def version(self) -> int:
        """A number that changes with the rules. Cheap: it is read for every decision."""
        ...

    def sets(self) -> Mapping[str, Sequence[Rule]]:
        """Return the rules by name."""
        ...

    def approved(self, owner: str) -> Sequence[Rule]:
        """Return what was allowed for always when this owner's environments asked."""
        ...


class NoRules:
    """The book of an operator who named none."""

    @property
    def version(self) -> int:
        """Nothing changes."""
        return 0

    def sets(self) -> Mapping[str, Sequence[Rule]]:
        """Return nothing."""
        return NO_SETS

    def approved(self, owner: str) -> Sequence[Rule]:
        """Return nothing."""
        return ()


def _answered(network: Network, approved: tuple[Rule, ...]) -> Network:
    if network.default is not Default.ASK:
        return network
    return replace(network, rules=(*network.rules, *approved))


class Judges:
    """Makes the judges of environments."""

    def __init__(
        self,
        book: RuleBook | None = None,
        maximum: Network = PUBLIC_NETWORK,
        *,
        ports: frozenset[int] | None = USUAL_PORTS,
        web: frozenset[int] | None = WEB,
    ) -> None:
        """`ports` are those that rules may open, None all but 25; `web` those of `public`."""
        self._book = NoRules() if book is None else book
        self.maximum = maximum
        self._ports = ports
        self._web = web

    @property
    def version(self) -> int:
        """A number that changes when judges have to be made anew."""
        return self._book.version

    def judge(self, network: Network, registries: Sequence[Rule] = (), owner: str = "") -> Judge:
        """Return the judge of an owner's environment.

        `registries` stand for @packages in its image. What was allowed for always counts where a
        person would be asked otherwise.
        """
        sets = {PACKAGES: registries, **self._book.sets()}
        approved = tuple(self._book.approved(owner))
        own, maximum = (_answered(side, approved) for side in (network, self.maximum))
        return Judge(own, maximum, sets, ports=self._ports, web=self._web)
