# SPDX-License-Identifier: Apache-2.0
"""The operator's secrets, built from `Settings`: who gets which, and how the proxy uses them.

Used by `waggle.app.root` and `waggle.app.network`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from waggle.config import Settings
from waggle.domain.access import Owner
from waggle.domain.environment import Environment
from waggle.domain.errors import InvalidArgument
from waggle.domain.secrets import MAX_SECRETS, Granted, SecretValue, ValueUnavailable, mint
from waggle.domain.secrets.held import Granting, HeldSecrets, NoGranting
from waggle.infra.access.secret_values import SecretVault
from waggle.infra.net.tls.authority import EnvironmentAuthority
from waggle.infra.net.tls.ended import EndedTls
from waggle.infra.net.tls.upstream import UpstreamTls
from waggle.infra.observe.audit import Thinning

log = structlog.get_logger(__name__)
TOKEN_BYTES = 16


class Secrets:
    """The secrets of one server."""

    def __init__(self, vault: SecretVault | None, authorities: bytes) -> None:
        """`authorities` is PEM with those that servers may have beside the host's."""
        self._vault = vault
        self._upstream = UpstreamTls(authorities)

    def reread(self) -> str | None:
        """Read the secrets file now, if there is one. Return why it cannot be used, or None."""
        return None if self._vault is None else self._vault.reread()

    @property
    def granting(self) -> Granting:
        """What gives secrets to new environments."""
        return NoGranting() if self._vault is None else _FromVault(self._vault)

    def ended_tls(self, environment: Environment) -> EndedTls | None:
        """Return what puts values into the requests of an environment; None if it has no secrets.

        Without a secrets file, those of an earlier one are gone.
        """
        held = environment.secrets
        if not held:
            return None
        vault = _NoVault() if self._vault is None else self._vault
        granted = Granted(Owner(environment.owner), held.placeholders, vault)
        authority = EnvironmentAuthority.load(held.authority.encode())

        def write(use: tuple[str, str], more: int) -> None:
            counted = {"more_in_last_second": more} if more else {}
            name, host = use
            log.info("secret_used", environment=environment.id, secret=name, host=host, **counted)

        thinned = Thinning(write)

        def used(name: str, host: str) -> None:
            thinned(name, (name, host))

        return EndedTls(granted, authority, self._upstream, on_use=used)


class _NoVault:
    """The vault of an operator who has no secrets any more."""

    def secret(self, name: str) -> None:
        """Return nothing."""

    async def value(self, name: str) -> SecretValue:
        """Raise ValueUnavailable."""
        raise ValueUnavailable(f"there is no secret '{name}' any more")

    def known(self, name: str) -> tuple[SecretValue, ...]:
        """Return nothing."""
        return ()


class _FromVault:
    def __init__(self, vault: SecretVault) -> None:
        self._vault = vault

    def grant(
        self, environment_id: str, owner: str, names: Sequence[str]
    ) -> tuple[HeldSecrets, Mapping[str, str]]:
        """See `Granting`."""
        wanted = list(dict.fromkeys(names))
        if len(wanted) > MAX_SECRETS:
            raise InvalidArgument(
                f"An environment has at most {MAX_SECRETS} secrets.", hint="Name fewer."
            )
        granted = [self._vault.grant(Owner(owner), name) for name in wanted]
        variables = [secret.variable for secret in granted]
        if twice := [name for name in variables if variables.count(name) > 1]:
            raise InvalidArgument(
                f"Several of these secrets have the variable {twice[0]}.",
                hint="Name only one of them.",
            )
        placeholders = {
            secret.name: mint(secret.name, lambda: secrets.token_hex(TOKEN_BYTES))
            for secret in granted
        }
        hosts = [host for secret in granted for host in secret.hosts]
        authority = EnvironmentAuthority.new(environment_id, hosts).to_bytes().decode()
        by_name = {secret.name: secret.hosts for secret in granted}
        return HeldSecrets(placeholders, authority, by_name), {
            secret.variable: placeholders[secret.name] for secret in granted
        }


@asynccontextmanager
async def open_secrets(settings: Settings, authorities: bytes) -> AsyncGenerator[Secrets]:
    """Read the secrets file, if there is one, and end its commands with the block.

    Raises SettingsInvalid if it cannot be used.
    """
    if settings.secrets_file is None:
        yield Secrets(None, authorities)
        return
    vault = SecretVault(settings.secrets_file, monotonic=time.monotonic)
    try:
        yield Secrets(vault, authorities)
    finally:
        await vault.aclose()
