# SPDX-License-Identifier: Apache-2.0
"""The operator's part in what environments reach: which names of rules there are, and the maximum.

`Limits` has it. It checks what clients ask for, and asks new guests for the registries that
@packages stands for. Clients see names of rules, never the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import structlog

from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument
from waggle.domain.host import Guest
from waggle.domain.network import PACKAGES, PUBLIC_NETWORK, Network
from waggle.domain.network.registries import UNANSWERED, registry_rules
from waggle.domain.network.rules import Rule

log = structlog.get_logger(__name__)
_SHOWN = 30
_REMEMBERED = 64


def no_names() -> Collection[str]:
    """Return the names of an operator who named no rules."""
    return ()


@dataclass(frozen=True, slots=True)
class OperatorNetwork:
    """`names` returns the names in the operator's file as it is now."""

    names: Callable[[], Collection[str]] = no_names
    maximum: Network = PUBLIC_NETWORK
    _answers: dict[str, tuple[Rule, ...]] = field(default_factory=dict[str, tuple[Rule, ...]])
    """The registries of images, by digest."""

    def check(self, network: Network) -> Network:
        """Return the network. Raises InvalidArgument if it has names that there are not."""
        known = sorted({*self.names(), PACKAGES})
        for name in network.sets:
            if name not in known:
                more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
                listed = ", ".join(f"@{name}" for name in known[:_SHOWN])
                raise InvalidArgument(
                    f"This server has no rules with the name @{name}.",
                    hint=f"It has {listed}{more}. Or write the rules yourself, as example.org.",
                )
        return network

    def asks(self, network: Network) -> bool:
        """Whether what a network reaches depends on the registries of the image."""
        if network.is_none or PACKAGES in self.names():
            return False
        return PACKAGES in network.sets or self._binds

    @property
    def _binds(self) -> bool:
        """Whether the maximum depends on them, so that no client may have a say in them."""
        return PACKAGES in self.maximum.sets

    async def equip(self, environment: Environment, guest: Guest, is_copy: bool) -> Environment:
        """Return a new environment with its registries, if its network depends on them.

        Nobody has run a program in its guest yet, unless it is a copy of one that was used: that is
        not asked if the maximum depends on the answer. Raises GuestLost.
        """
        if environment.registries is not None or not self.asks(environment.network):
            return environment
        if is_copy and self._binds:
            return environment
        return await self.ask(environment, guest, is_new=not is_copy)

    async def ask(
        self, environment: Environment, guest: Guest, *, is_new: bool = False
    ) -> Environment:
        """Ask the guest for its registries, and return the environment with them.

        If the maximum depends on them, they are asked for once, and without the variables of the
        environment's creator. A whole answer of a new machine, in which no program of a client ran,
        holds for all machines of the image, whoever owns them. Who is asked again is asked itself;
        if that answer is not whole, what was known stays. Raises GuestLost.
        """
        ignored = tuple(environment.variables) if self._binds else ()
        is_of_image = self._binds or not environment.variables
        image = guest.booted_from.get("image", "")
        known = environment.registries
        rules = self._answers.get(image) if is_of_image and known is None else None
        if rules is not None:
            is_complete = True
            guest.set_network(environment.network, rules)
        else:
            rules, is_complete = await guest.registries(environment.network, ignored)
            if known and not is_complete:
                rules = tuple(dict.fromkeys((*rules, *registry_rules(known))))
            if image and is_of_image and is_new and is_complete:
                self._remember(image, rules)
            log.info("registries_asked", environment=environment.id, rules=len(rules))
        found = tuple(map(str, rules)) if rules or self._binds else None
        if found and not is_complete and not self._binds:
            found = (*found, UNANSWERED)
        return replace(environment, registries=found)

    def _remember(self, image: str, rules: tuple[Rule, ...]) -> None:
        while len(self._answers) >= _REMEMBERED:
            self._answers.pop(next(iter(self._answers)))
        self._answers[image] = rules

    def asks_again(self, environment: Environment, network: Network, *, named: bool) -> bool:
        """Whether to ask a guest that programs have run in, which is to get another network.

        `named` means that the change names the preset, as for tools that were installed meanwhile.
        """
        known = environment.registries
        is_whole = known is not None and UNANSWERED not in known
        return self.asks(network) and not self._binds and (named or not is_whole)
