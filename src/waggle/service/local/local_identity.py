# SPDX-License-Identifier: Apache-2.0
"""Who a machine on this host is: the records of its identity, and what opens it from outside.

Used by `local_start`, and by `waggle template build` for machines that are to be frozen.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from waggle.domain.errors import ImageCorrupt
from waggle.domain.image import BootImage
from waggle.domain.network import NetworkPolicy
from waggle.infra.rootfs.machine_disks import DRAWN_BYTES, drawn_records, identity_records
from waggle.infra.shared.files import atomic_write
from waggle.infra.ssh.connection import PROXY_PORT, EnvironmentKeys
from waggle.service.local.guest_setup import guest_variables

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def identity_of(
    image: BootImage,
    keys: EnvironmentKeys,
    hostname: str,
    network: NetworkPolicy,
    *,
    certificates: bytes,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Mapping[str, bytes]:
    """All records, with fresh random ones. Raises ImageCorrupt for what no machine can hold.

    `variables` are the environment's own, which win over the image's.
    """
    has_network = network is not NetworkPolicy.NONE
    told = guest_variables(
        image.variables,
        proxy_port=PROXY_PORT if has_network else None,
        has_certificates=bool(certificates),
    )
    try:
        records = identity_records(
            host_key=keys.host_key,
            authorized_keys=keys.authorized_keys,
            hostname=hostname,
            environment={**told, **variables},
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
    return {**records, **drawn_records(secrets.token_bytes(DRAWN_BYTES))}


def save_access(files: Path, keys: EnvironmentKeys, port: int) -> None:
    """What `waggle shell` needs to log in; readable for the server's user only."""
    atomic_write(files / "ssh_key", keys.client.export_private_key(), 0o600)
    known = f"[127.0.0.1]:{port} ".encode() + keys.host_public.export_public_key()
    atomic_write(files / "known_hosts", known, 0o600)
