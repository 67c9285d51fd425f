# SPDX-License-Identifier: Apache-2.0
"""Changes of what an environment reaches while it runs. Called by `waggle.mcp`.

The record changes first, then the proxy judges by it; connections that no longer fit end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import InvalidArgument, NotFound
from waggle.domain.host import Guest
from waggle.domain.network import PACKAGES, Network, parse_additions
from waggle.domain.network.registries import registry_rules
from waggle.service.environments.ending import Life
from waggle.service.environments.service import EnvironmentService
from waggle.tasks import finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Changed:
    """An environment with its new network, and how many open connections that ended."""

    environment: Environment
    closed: int


class NetworkService:
    """Use cases of networks: change one."""

    def __init__(self, environments: EnvironmentService) -> None:
        self._environments = environments

    async def set_network(
        self,
        environment_id: str,
        *,
        owner: str,
        network: Network | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> Changed:
        """Give an environment another network, and then add rules to it. Idempotent.

        A paused one stays paused. `allow` may name rules, as @git. No change is possible from
        `none`, and one to `none` is for good. Finishes when cancelled, once it has begun. Raises
        InvalidArgument, NotFound, NotRunning, GuestLost or what the store raises.
        """
        wanted = self._wanted(network, allow, deny)
        environment = self._environments.get(environment_id, owner=owner)
        now, rules = wanted(environment), self._environments.limits.rules
        registries = environment.registries
        named = "@" + PACKAGES in allow or (network is not None and PACKAGES in network.sets)
        if rules.asks_again(environment, now.network, named=named):
            async with self._environments.using(environment.id, owner=owner) as (used, guest):
                registries = (await rules.ask(used, guest)).registries
        life = self._environments.life(environment.id)
        if life is None:
            raise NotFound(f"There is no environment {environment.id}.")
        return await finish(
            self._apply(life, lambda now: replace(wanted(now), registries=registries))
        )

    async def _apply(self, life: Life, change: Callable[[Environment], Environment]) -> Changed:
        changed = await life.amend(change)
        closed, network = await _apply_to(life.held_guest, changed), str(changed.network)
        log.info("network_changed", environment=changed.id, network=network, closed=closed)
        self._environments.events.notify(changed)
        return Changed(changed, closed)

    def _wanted(
        self, network: Network | None, allow: Sequence[str], deny: Sequence[str]
    ) -> Callable[[Environment], Environment]:
        """Return the change. Raises InvalidArgument."""
        added = parse_additions(allow, deny)
        if network is None and not any(added):
            raise InvalidArgument(
                "There is nothing to change.", hint="Give network, or rules to allow or deny."
            )

        def change(environment: Environment) -> Environment:
            if environment.state is not State.PAUSED:
                environment.require_running()
            old = environment.network
            if old.is_none and network is not None and not network.is_none:
                raise InvalidArgument(
                    "This environment has no network, and its machine cannot get one any more.",
                    hint="Create another one with create_environment(network=...).",
                )
            now = (network or old).with_rules(*added.rules, sets=added.sets)
            return replace(environment, network=self._environments.limits.rules.check(now))

        return change


async def _apply_to(guest: Guest | None, changed: Environment) -> int:
    """Have a guest's proxy judge by the network; return how many open connections that ended.

    A machine that is paused learns of it when it resumes.
    """
    if guest is None:
        return 0
    closed = guest.set_network(changed.network, registry_rules(changed.registries or ()))
    if changed.state is State.RUNNING:
        await guest.renew_network()
    return closed
