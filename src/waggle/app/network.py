# SPDX-License-Identifier: Apache-2.0
"""The guests' way to the network, built from `Settings`: proxies, resolver, address policy, limits.

Used by `waggle.app.root`. Knows no use case.
"""

from __future__ import annotations

import os

from waggle.app.observing import egress_log
from waggle.config import Settings
from waggle.domain.environment import Environment
from waggle.domain.network.rule_book import Judges
from waggle.domain.network.traffic import Traffic
from waggle.domain.observer import Observer
from waggle.infra.net.allowance import AllowanceLimits, Allowances
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.lookups import Lookups, limit_resolver, system_lookup
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.resolver import SystemResolver


def allowance_limits(settings: Settings) -> AllowanceLimits:
    """Return how much of the network environments and owners may use."""
    return AllowanceLimits(
        environment_bytes=settings.egress_max_mb << 20,
        owner_bytes=settings.egress_owner_mb << 20,
        owner_connections=settings.egress_owner_connections,
        rate=settings.egress_rate,
        total_rate=settings.egress_total_rate,
    )


class Egress:
    """What the proxies of one server share. Made on its event loop."""

    def __init__(
        self, settings: Settings, observer: Observer, traffic: Traffic | None = None
    ) -> None:
        """`traffic` counts that of all environments."""
        limit_resolver(os.environ)  # noqa: TID251 (read by the C library)
        self._observer = observer
        self._lookups = Lookups(system_lookup)
        self._policy = AddressPolicy(settings.egress_allow_cidrs)
        ports = frozenset(settings.egress_ports)
        self._judges = Judges(ports=ports, web=ports)
        self._limits = EgressLimits(connections=settings.egress_max_connections)
        self.allowances = Allowances(allowance_limits(settings), traffic)

    def new_proxy(self, environment: Environment) -> EgressProxy:
        """Return a proxy for the environment, whose earlier proxies' use counts."""
        resolver = SystemResolver(self._lookups)
        return EgressProxy(
            self._policy,
            resolver,
            exists=resolver.exists,
            reach=Reach(environment.network, self._judges),
            limits=self._limits,
            allowance=self.allowances.of(environment.id, environment.owner),
            on_decision=egress_log(self._observer, environment.id),
        )
