# SPDX-License-Identifier: Apache-2.0
"""The two keys of one environment: the guest's host key, pinned, and the server's own client key.

Both are made on the host for one environment and die with it.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

KEY_TYPE = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class EnvironmentKeys:
    """`host_key` is private and in dropbear's format; `host_public` is what clients must see."""

    client: asyncssh.SSHKey
    host_public: asyncssh.SSHKey
    host_key: bytes

    @property
    def authorized_keys(self) -> bytes:
        """The line that lets the server's client key in."""
        return self.client.export_public_key()


def new_keys() -> EnvironmentKeys:
    """Fresh keys from the operating system's randomness; takes well under a millisecond."""
    host = Ed25519PrivateKey.generate()
    seed, public = host.private_bytes_raw(), host.public_key().public_bytes_raw()
    client = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    wire = _string(KEY_TYPE.encode()) + _string(public)
    return EnvironmentKeys(
        client=asyncssh.import_private_key(client),
        host_public=asyncssh.import_public_key(_openssh_line(wire)),
        host_key=_string(KEY_TYPE.encode()) + _string(seed + public),
    )


def _string(data: bytes) -> bytes:
    """An SSH string, RFC 4251 section 5."""
    return struct.pack(">I", len(data)) + data


def _openssh_line(wire: bytes) -> bytes:
    return KEY_TYPE.encode() + b" " + base64.b64encode(wire)
