# SPDX-License-Identifier: Apache-2.0
"""The network of an environment: what it may reach, as clients, records and operators write it.

`rules` has one rule, `judging` decides about a connection. Pure. The text of a network is a list of
items: `none`, `public` or `ask` says what becomes of destinations that no rule decides (nothing, if
it is missing), `@NAME` stands for rules that the operator named or a preset, the rest are rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from waggle.domain.errors import InvalidArgument
from waggle.domain.network.rules import HOW, Action, Rule, parse_rule

MAX_ITEMS: Final = 200
"""The most items that a client may give an environment."""
PACKAGES: Final = "packages"
"""The preset of the registries that the image's package managers are configured for."""
_SET: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")


class Default(StrEnum):
    """What becomes of a destination that no rule decides.

    `NONE`: there is no network at all. `RULES`: it is refused. `PUBLIC`: it is allowed if it is on
    the internet. `ASK`: a person is asked.
    """

    NONE = "none"
    RULES = "rules"
    PUBLIC = "public"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Network:
    """What an environment may reach. `sets` are names of rules that stand elsewhere."""

    default: Default
    rules: tuple[Rule, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether there is no network at all."""
        return self.default is Default.NONE

    @property
    def items(self) -> list[str]:
        """The list that `parse_network` reads."""
        first = [] if self.default is Default.RULES else [str(self.default)]
        return [*first, *(f"@{name}" for name in self.sets), *map(str, self.rules)]

    def __str__(self) -> str:
        """Return all items in one line."""
        return ", ".join(self.items)

    def with_rules(self, *added: Rule, sets: Sequence[str] = ()) -> Network:
        """Return this network with further rules; what is there already is not repeated.

        A rule takes the place of the one with the other action for the same destination. Raises
        InvalidArgument if there would be too many, or there is no network to add to.
        """
        if not added and not sets:
            return self
        if self.is_none:
            raise InvalidArgument(
                "This environment has no network, which rules could open.",
                hint="Create another one with these rules.",
            )
        opposite = {str(rule).removeprefix("deny ") for rule in added}
        kept = [rule for rule in self.rules if str(rule).removeprefix("deny ") not in opposite]
        names = tuple(dict.fromkeys((*self.sets, *sets)))
        return _bounded(replace(self, rules=(*kept, *dict.fromkeys(added)), sets=names))


NO_NETWORK: Final = Network(Default.NONE)
PUBLIC_NETWORK: Final = Network(Default.PUBLIC)
DEFAULTS: Final = (Default.NONE, Default.PUBLIC, Default.ASK)
"""The words that a client may write; without one, what no rule allows is refused."""


def parse_network(given: str | Iterable[str]) -> Network:
    """Return the network that a list of items says; in one text, commas separate them.

    Raises InvalidArgument.
    """
    items = _split(given) if isinstance(given, str) else [item.strip() for item in given]
    items = [item for item in items if item]
    if not items:
        raise InvalidArgument("The network has no items.", hint=HOW)
    defaults = {word: Default(word) for word in items if word in DEFAULTS}
    if len(defaults) > 1:
        raise InvalidArgument(
            f"A network is only one of {' and '.join(defaults)}.", hint="Leave one of them out."
        )
    default = next(iter(defaults.values()), Default.RULES)
    sets = [parse_set_name(item[1:]) for item in items if item.startswith("@")]
    rules = [parse_rule(i) for i in items if i not in defaults and not i.startswith("@")]
    network = Network(default, tuple(dict.fromkeys(rules)), tuple(dict.fromkeys(sets)))
    if network.is_none and (rules or sets):
        raise InvalidArgument("A network with rules is not none.", hint="Leave out none.")
    return _bounded(network)


def recorded_network(text: str) -> Network:
    """Return the network whose text a setting, a record or a manifest holds. Raises ValueError."""
    try:
        return parse_network(text)
    except InvalidArgument as error:
        raise ValueError(error.message) from error


def _split(text: str) -> Sequence[str]:
    """Split at commas, but not between the methods of a rule (`GET,HEAD example.org`)."""
    return [item.strip() for item in re.split(r",(?![A-Z])|,\s+", text)]


class Additions(NamedTuple):
    """What a client adds to a network."""

    rules: tuple[Rule, ...]
    sets: tuple[str, ...]


def parse_additions(allow: Sequence[str], deny: Sequence[str]) -> Additions:
    """Return the rules and names that these items add; each may begin with its own action.

    Raises InvalidArgument.
    """
    sets = [parse_set_name(item[1:]) for item in allow if item.startswith("@")]
    rules = [_with_action(item, Action.ALLOW) for item in allow if not item.startswith("@")]
    rules += [_with_action(item, Action.DENY) for item in deny]
    return Additions(tuple(dict.fromkeys(rules)), tuple(dict.fromkeys(sets)))


def _with_action(item: str, action: Action) -> Rule:
    first = item.split(maxsplit=1)[:1]
    if first == [Action.ALLOW if action is Action.DENY else Action.DENY]:
        raise InvalidArgument(
            f"{item[:80]!a} is not a rule to {action}.",
            hint="Rules that deny belong into deny, others into allow.",
        )
    rule = parse_rule(item)  # a refusal names the item as it was given
    return rule if first == [action] else parse_rule(f"{action} {item}")


def parse_set_name(name: str) -> str:
    """Return the name of a set of rules, without its `@`. Raises InvalidArgument."""
    if not _SET.fullmatch(name):
        raise InvalidArgument(
            f"{f'@{name}'[:80]!a} is no name of rules.",
            hint="Use @ and lower-case letters, digits, '-' or '_', as in @packages.",
        )
    return name


def _bounded(network: Network) -> Network:
    if len(network.rules) + len(network.sets) > MAX_ITEMS:
        raise InvalidArgument(
            f"A network has at most {MAX_ITEMS} rules.",
            hint="Use *.NAME for many names of one domain.",
        )
    return network
