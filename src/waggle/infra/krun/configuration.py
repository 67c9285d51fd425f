# SPDX-License-Identifier: Apache-2.0
"""What a runner is told, and how that travels: as bytes through its standard input.

Written by the hypervisor, read by the runner. Imports nothing: dataclasses and JSON take longer to
import than everything else that a runner does before its machine starts.
"""

from __future__ import annotations


class Configuration:
    """One machine; every field is needed. Those that end in `_fd` are inherited descriptors."""

    library: str
    kernel_fd: int
    command_line: str
    cpus: int
    memory_mib: int
    kit_fd: int
    image_fd: int
    scratch_fd: int
    identity_fd: int
    console_fd: int
    agent_port: str
    agent_fd: int
    renewal_port: str
    renewal_fd: int
    ssh_port: int
    """The port on the guest's vsock."""
    socket: str
    """The Unix socket that leads there, made inside `directory`."""
    directory: str
    directory_fd: int
    uid: int
    """Also the group; -1 to remain who the server is."""
    kvm_gid: int
    """The group that may use /dev/kvm; -1 for none."""
    parent: int
    """The server's process."""

    def __init__(self, **fields: str | int) -> None:
        """Raises TypeError for a field that is missing, unknown or of another type."""
        kinds = {"str": str, "int": int}
        expected = Configuration.__annotations__
        if fields.keys() != expected.keys():
            raise TypeError(f"{fields.keys() ^ expected.keys()}")
        for name, value in fields.items():
            if type(value) is not kinds[expected[name]]:
                raise TypeError(name)
            setattr(self, name, value)


def encode(configuration: Configuration) -> bytes:
    """Each field as `name=value`, ended by NUL. Raises ValueError for a text that holds one."""
    fields = [f"{name}={value}" for name, value in vars(configuration).items()]
    if any("\0" in field for field in fields):
        raise ValueError("A field holds NUL.")
    return "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> Configuration:
    """The inverse of `encode`. Raises ValueError or TypeError for what `encode` did not make."""
    fields: dict[str, str | int] = {}
    for field in data.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, _, value = field.partition("=")
        is_number = Configuration.__annotations__.get(name) == "int"
        fields[name] = int(value) if is_number else value
    return Configuration(**fields)
