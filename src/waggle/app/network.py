# SPDX-License-Identifier: Apache-2.0
"""The guests' way to the network, built from `Settings`: proxies, resolver, address policy, limits.

Used by `waggle.app.root`. Knows no use case.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakSet

import structlog

from waggle.app.observing import egress_log
from waggle.app.secrets import Secrets
from waggle.config import Settings
from waggle.config.environments import named_rules
from waggle.config.places import Places
from waggle.domain.environment import Environment
from waggle.domain.network.registries import registry_rules
from waggle.domain.network.rule_book import Judges, RuleBook
from waggle.domain.network.traffic import Traffic
from waggle.domain.observer import Observer
from waggle.infra.access.operator_rules import OperatorRules
from waggle.infra.net.allowance import AllowanceLimits, Allowances
from waggle.infra.net.egress import EgressProxy
from waggle.infra.net.gate import Reach
from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.lookups import Lookups, limit_resolver, system_lookup
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.resolver import SystemResolver
from waggle.service.environments.questions import Questions
from waggle.service.environments.reaching import OperatorNetwork

log = structlog.get_logger(__name__)
RULES_SECONDS = 2.0


def allowance_limits(settings: Settings) -> AllowanceLimits:
    """Return how much of the network environments and owners may use."""
    return AllowanceLimits(
        environment_bytes=settings.egress_max_mb << 20,
        owner_bytes=settings.egress_owner_mb << 20,
        owner_connections=settings.egress_owner_connections,
        rate=settings.egress_rate,
        total_rate=settings.egress_total_rate,
    )


def operator_rules(settings: Settings) -> OperatorRules:
    """Read the files of rules. Raises SettingsInvalid if one cannot be used."""
    return OperatorRules(
        settings.network_rules,
        Places.of(settings).approved_rules,
        required=named_rules(settings.default_network) | named_rules(settings.max_network),
        monotonic=time.monotonic,
    )


def operator_network(settings: Settings, rules: OperatorRules) -> OperatorNetwork:
    """Return what services know of the operator's rules, and log a default that is narrowed."""
    if (usual := settings.usual_network) != settings.default_network:
        log.info(
            "default_network_narrowed", to=str(usual), because="WAGGLE_MAX_NETWORK allows no more"
        )
    return OperatorNetwork(rules.sets, settings.max_network)


class Egress:
    """What the proxies of one server share. Made on its event loop."""

    def __init__(
        self,
        settings: Settings,
        rules: RuleBook,
        observer: Observer,
        traffic: Traffic | None = None,
        questions: Questions | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        """`traffic` counts that of all environments. Without `questions` nobody is asked."""
        self._secrets = secrets
        self._questions = Questions(grace=0) if questions is None else questions
        limit_resolver(os.environ)  # noqa: TID251 (read by the C library)
        self._observer = observer
        self._lookups = Lookups(system_lookup)
        self._policy = AddressPolicy(settings.egress_allow_cidrs)
        self._judges = Judges(
            rules,
            settings.max_network,
            ports=frozenset(settings.egress_ports),
            web=settings.public_ports,
        )
        self._limits = EgressLimits(connections=settings.egress_max_connections)
        self._proxies: WeakSet[EgressProxy] = WeakSet()
        self.allowances = Allowances(allowance_limits(settings), traffic)

    def new_proxy(self, environment: Environment) -> EgressProxy:
        """Return a proxy for the environment, whose earlier proxies' use counts."""
        resolver = SystemResolver(self._lookups)
        proxy = EgressProxy(
            self._policy,
            resolver,
            exists=resolver.exists,
            reach=Reach(
                environment.network,
                self._judges,
                registry_rules(environment.registries or ()),
                partial(self._questions.ask, environment.id),
                owner=environment.owner,
            ),
            limits=self._limits,
            allowance=self.allowances.of(environment.id, environment.owner),
            heard=egress_log(self._observer, environment),
        )
        if self._secrets is not None:
            proxy.secrets = self._secrets.ended_tls(environment)
        self._proxies.add(proxy)
        return proxy

    async def watch_rules(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """End connections that the operator's rules do not allow any more, until cancelled."""
        judged_by = self._judges.version
        while True:
            await sleep(RULES_SECONDS)
            if (version := self._judges.version) != judged_by:
                judged_by = version
                ended = sum(proxy.end_refused() for proxy in [*self._proxies])
                log.info("network_rules_changed", connections_ended=ended)
