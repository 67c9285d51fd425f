# SPDX-License-Identifier: Apache-2.0
"""Where the answers of people who are asked about connections go. Used by `waggle.app.root`."""

from __future__ import annotations

from collections.abc import Sequence

from waggle.domain.network.rules import Rule
from waggle.infra.access.operator_rules import OperatorRules
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.questions import Questions
from waggle.service.environments.service import EnvironmentService


def keep_answers(
    questions: Questions,
    environments: EnvironmentService,
    rules: OperatorRules,
    *,
    always: bool,
) -> None:
    """Keep answers as rules of the environment, and for its owner if `always` may be answered.

    What was approved for an owner holds in any case; see `OperatorRules.approved`.
    """
    networks = NetworkService(environments)

    def owner_of(environment_id: str) -> str:
        life = environments.life(environment_id)
        return life.environment.owner if life else ""

    async def allow(environment_id: str, rule: Rule) -> None:
        owner = owner_of(environment_id)
        await networks.set_network(environment_id, owner=owner, allow=[str(rule)])

    async def approve(environment_id: str, rule: Rule) -> None:
        if owner := owner_of(environment_id):
            await rules.approve(owner, rule)

    def approved(environment_id: str) -> Sequence[Rule]:
        return rules.approved(owner_of(environment_id))

    questions.keep(allow, approve if always else None, approved)
