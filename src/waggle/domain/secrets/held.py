# SPDX-License-Identifier: Apache-2.0
"""The secrets that an environment holds, as its record and its snapshots keep them. Pure.

A fork or a copy of a snapshot holds the same: programs that were copied with it keep placeholders
and trust in their memory. An export holds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from waggle.domain.errors import NotFound
from waggle.domain.secrets import has_shape


@dataclass(frozen=True, slots=True)
class HeldSecrets:
    """The placeholder of each secret by its name, and the authority that the guest trusts."""

    placeholders: Mapping[str, str] = field(default_factory=dict[str, str])
    authority: str = field(default="", repr=False)
    """Key and certificate in PEM: the server's own, never the guest's."""
    hosts: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """The hosts that a secret had when it was given, by its name; to tell, not to judge by."""

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.placeholders)

    def facts(self) -> dict[str, object]:
        """Return what `held_in` reads."""
        hosts = {name: list(listed) for name, listed in self.hosts.items()}
        return {
            "placeholders": dict(self.placeholders),
            "authority": self.authority,
            "hosts": hosts,
        }

    def hosts_of(self, variables: Mapping[str, str]) -> dict[str, Sequence[str]]:
        """Return those variables that hold a placeholder of these, with the secrets' hosts."""
        names = {placeholder: name for name, placeholder in self.placeholders.items()}
        return {
            variable: self.hosts.get(names[value], ())
            for variable, value in variables.items()
            if value in names
        }


NO_SECRETS: Final = HeldSecrets()


def held_in(facts: object) -> HeldSecrets:
    """Return the secrets of a record; none for None. Raises KeyError, TypeError or ValueError."""
    if facts is None:
        return NO_SECRETS
    table = cast("dict[str, object]", facts)
    placeholders = cast("dict[str, object]", table["placeholders"])
    hosts = cast("dict[str, list[object]]", table.get("hosts", {}))
    return HeldSecrets(
        {str(name): str(text) for name, text in placeholders.items()},
        str(table["authority"]),
        {str(name): tuple(map(str, listed)) for name, listed in hosts.items()},
    )


def without_placeholders(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables whose values are not placeholders."""
    return {name: value for name, value in variables.items() if not has_shape(value)}


class Granting(Protocol):
    """Gives secrets to new environments."""

    def grant(
        self, environment_id: str, owner: str, names: Sequence[str]
    ) -> tuple[HeldSecrets, Mapping[str, str]]:
        """Return what the environment holds, and the variables with its placeholders.

        `names` is not empty. Raises NotFound or InvalidArgument.
        """
        ...


class NoGranting:
    """The server of an operator who has no secrets."""

    def grant(
        self, environment_id: str, owner: str, names: Sequence[str]
    ) -> tuple[HeldSecrets, Mapping[str, str]]:
        """Raise NotFound."""
        del environment_id, owner
        raise NotFound(
            f"This server has no secret {names[0][:40]!a}.",
            hint="Leave out secrets; the operator of the server sets WAGGLE_SECRETS_FILE.",
        )
