# SPDX-License-Identifier: Apache-2.0
"""Secrets of the operator and their placeholders, which are all that a guest ever has. Pure.

`infra.access` reads secrets from the operator's file, `infra.net.tls` puts values in the place of
placeholders; `substitution` decides where, `masking` finds values in what servers answer. A
placeholder is a random name without meaning outside one environment: whoever sees it gains nothing.
A value is only in a `SecretValue`, which no text form shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument

MAX_SECRETS: Final = 16
"""The most secrets of one environment."""
MIN_VALUE, MAX_VALUE = 8, 4096
"""The length of a value in bytes. A shorter one would be masked wherever it occurs by chance."""
_NAME = re.compile(r"[a-z0-9_]{1,32}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HOST = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,62}"
)
_PLACE = re.compile(r"headers|query|header:[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")
NEVER_IN: Final = frozenset(
    b"host connection content-length transfer-encoding te trailer upgrade expect content-encoding "
    b"accept-encoding keep-alive proxy-authorization proxy-connection".split()
)
"""Headers that rule the connection: no secret is put into them."""


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(message, hint="Change the entry in the secrets file.")


class SecretValue:
    """A value. `reveal` gives it to the code that sends or masks it; nothing else shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        """Raises InvalidArgument unless it has 8 to 4096 printable ASCII characters.

        It may not begin or end with a space. The error says why, never what.
        """
        if not MIN_VALUE <= len(value) <= MAX_VALUE:
            raise _malformed(f"The value has {len(value)} bytes, not {MIN_VALUE} to {MAX_VALUE}.")
        if not _VALUE.fullmatch(value):
            raise _malformed("The value is not printable ASCII in one line.")
        self._value = value

    def reveal(self) -> bytes:
        """Return the value itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "SecretValue(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> str:
        raise TypeError("a secret's value is never stored")


class ValueUnavailable(Exception):
    """The value cannot be had now. The text says why, for the operator and the agent."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as the operator describes it, without its value."""

    name: str
    variable: str
    """The environment variable in the guest that holds the placeholder."""
    hosts: tuple[str, ...]
    """Lower-case host names that may get the value; `*.example.org` means all names below."""
    owners: frozenset[Owner] | None = None
    """Who may use it; None means all."""
    places: tuple[str, ...] = ("headers",)
    """`headers`, `header:NAME` in lower case, `query`."""

    def __post_init__(self) -> None:
        """Raises InvalidArgument."""
        if not _NAME.fullmatch(self.name):
            raise _malformed("A secret's name has 1 to 32 of a-z, 0-9 and _.")
        if not _VARIABLE.fullmatch(self.variable):
            raise _malformed("`variable` is not the name of an environment variable.")
        if not self.hosts or not all(_HOST.fullmatch(host) for host in self.hosts):
            raise _malformed(
                "`hosts` are lower-case host names such as api.example.org or *.example.org."
            )
        if not self.places or not all(_PLACE.fullmatch(place) for place in self.places):
            raise _malformed("`places` are headers, header:NAME (lower case) or query.")

    def may_go_to(self, host: str) -> bool:
        """Whether `host`, a lower-case name, may get the value."""
        return any(matches(pattern, host) for pattern in self.hosts)

    def may_be_used_by(self, owner: Owner) -> bool:
        """Whether the owner's environments may have it."""
        return self.owners is None or owner in self.owners

    def may_be_in_header(self, header: bytes) -> bool:
        """Whether it may stand in the header of this lower-case name."""
        if header in NEVER_IN:
            return False
        return "headers" in self.places or f"header:{header.decode('latin-1')}" in self.places

    @property
    def may_be_in_query(self) -> bool:
        """Whether it may stand in the query of a URL."""
        return "query" in self.places

    def where(self) -> str:
        """Say in words where the placeholder may stand."""
        named = [place.removeprefix("header:") for place in self.places if ":" in place]
        words = ["request headers"] if "headers" in self.places else []
        words += [f"the header {name}" for name in named]
        words += ["the URL's query"] if self.may_be_in_query else []
        return " or ".join(words)


def matches(pattern: str, host: str) -> bool:
    """Whether a host name fits an exact name or `*.example.org` (not `example.org` itself)."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


_SHAPE = re.compile(rb"waggle-([a-z0-9_]{1,32})-([0-9a-f]{32})(?![0-9a-f])")
MAX_PLACEHOLDER: Final = 7 + 32 + 1 + 32


def mint(name: str, token: Callable[[], str]) -> str:
    """Make a placeholder of a secret. `token` returns 32 random lower-case hex digits."""
    placeholder = f"waggle-{name}-{token()}"
    if not _SHAPE.fullmatch(placeholder.encode("ascii")):
        raise ValueError("not 32 hex digits")
    return placeholder


def has_shape(text: str) -> bool:
    """Whether a text is of the form of a placeholder, of whatever environment."""
    return bool(_SHAPE.fullmatch(text.encode("ascii", "replace")))


class Vault(Protocol):
    """The secrets of this server, as they are now."""

    def secret(self, name: str) -> Secret | None:
        """Return a secret's description; None if there is none by that name any more."""
        ...

    async def value(self, name: str) -> SecretValue:
        """Return the present value. Raises ValueUnavailable. Bounded in time."""
        ...

    def known(self, name: str) -> tuple[SecretValue, ...]:
        """Return the values that are known without asking for one, also those of before."""
        ...


class Granted:
    """The secrets of one environment: whose it is, and the placeholder of each by its name.

    What a secret is, the vault says every time: a secret that the operator removed, or took from
    this owner, is gone for running environments too.
    """

    def __init__(self, owner: Owner, placeholders: Mapping[str, str], vault: Vault) -> None:
        """`placeholders` is by secret. Raises ValueError if one is malformed or there are many."""
        by_placeholder = {text.encode("ascii"): name for name, text in placeholders.items()}
        fits = 0 < len(placeholders) <= MAX_SECRETS and len(by_placeholder) == len(placeholders)
        if not fits or not all(has_shape(text) for text in placeholders.values()):
            raise ValueError("malformed placeholders")
        self.owner = owner
        self.vault = vault
        self._names = by_placeholder

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the secrets."""
        return tuple(self._names.values())

    @property
    def placeholders(self) -> Iterable[bytes]:
        """All placeholders."""
        return self._names.keys()

    def name_of(self, placeholder: bytes) -> str | None:
        """Return the secret's name; None for a placeholder that is not of this environment."""
        return self._names.get(placeholder)

    def secret(self, name: str) -> Secret | None:
        """Return the secret's description, if the operator still lets this owner use it."""
        found = self.vault.secret(name)
        return found if found is not None and found.may_be_used_by(self.owner) else None

    @property
    def lost(self) -> frozenset[str]:
        """The names of those that the operator removed, or took from this owner."""
        return frozenset(name for name in self.names if self.secret(name) is None)

    @property
    def domains(self) -> frozenset[str]:
        """The hosts of all that may be used now, without `*.`."""
        present = filter(None, map(self.secret, self.names))
        return frozenset(host.removeprefix("*.") for secret in present for host in secret.hosts)

    def covering(self, host: str) -> tuple[Secret, ...]:
        """Return the secrets that may go to this host."""
        found = (self.secret(name) for name in self.names)
        return tuple(secret for secret in found if secret is not None and secret.may_go_to(host))
