# SPDX-License-Identifier: Apache-2.0
"""Draws the blueprint of a machine: its parts, and who it is. Pure but for fresh random state.

Used by `local_host` for environments, and by `waggle template build` for machines to be frozen.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from waggle.domain.environment import Environment
from waggle.domain.errors import ImageCorrupt
from waggle.domain.network import NetworkPolicy
from waggle.infra.rootfs.identity import DRAWN_BYTES, drawn_records, identity_records
from waggle.infra.ssh.connection import PROXY_PORT
from waggle.infra.ssh.keys import EnvironmentKeys
from waggle.service.blueprint import Blueprint
from waggle.service.guest_setup import guest_variables
from waggle.service.moment_facts import MadeOf


def has_network(environment: Environment) -> bool:
    """Whether it has a proxy to the internet."""
    return environment.network is not NetworkPolicy.NONE


def draw(
    environment: Environment,
    made_of: MadeOf,
    keys: EnvironmentKeys,
    files: Path,
    *,
    certificates: bytes,
) -> Blueprint:
    """The blueprint of such an environment's machine, whose files are in `files`.

    `certificates` is PEM or empty. Raises ImageCorrupt.
    """
    image = made_of.image
    try:
        identity = identity_records(
            host_key=keys.host_key,
            authorized_keys=keys.authorized_keys,
            hostname=environment.name,
            environment=guest_variables(
                image.variables,
                proxy_port=PROXY_PORT if has_network(environment) else None,
                has_certificates=bool(certificates),
            ),
            certificates=certificates,
            user=image.user,
            directory=image.directory,
            shell=image.shell,
        )
    except ValueError as error:
        raise ImageCorrupt(
            f"The image's configuration cannot be given to a machine: {error}.",
            hint="Choose another image, or make this one with fewer or shorter variables.",
        ) from error
    return Blueprint(
        id=environment.id,
        runtime=made_of.runtime,
        image=image,
        kernel=made_of.kernel,
        kit=made_of.kit,
        resources=made_of.resources,
        identity={**identity, **drawn_records(secrets.token_bytes(DRAWN_BYTES))},
        files=files,
    )
