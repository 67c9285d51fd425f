# SPDX-License-Identifier: Apache-2.0
"""The configuration of a runner, and its encoding as bytes on the runner's standard input.

Written by `machine`, read by `runner`. Imports nothing: dataclasses and JSON take longer to import
than everything else that a runner does before its machine starts.
"""

from __future__ import annotations


class Configuration:
    """One machine; every field is required. Fields ending in `_fd` are inherited descriptors."""

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
    """The Unix socket that leads to `ssh_port`, made inside `directory`."""
    directory: str
    directory_fd: int
    uid: int
    """Also the group; -1 to keep the server's user."""
    kvm_gid: int
    """The group that may use /dev/kvm; -1 for none."""
    parent: int
    """The server's process."""

    def __init__(self, **fields: str | int) -> None:
        """Set every field. Raises TypeError for one that is missing, unknown or of another type."""
        kinds = {"str": str, "int": int}
        expected = Configuration.__annotations__
        if fields.keys() != expected.keys():
            raise TypeError(f"{fields.keys() ^ expected.keys()}")
        for name, value in fields.items():
            if type(value) is not kinds[expected[name]]:
                raise TypeError(name)
            setattr(self, name, value)


def encode(configuration: Configuration) -> bytes:
    """Encode every field as `name=value` and NUL. Raises ValueError for a text that holds NUL."""
    fields = [f"{name}={value}" for name, value in vars(configuration).items()]
    if any("\0" in field for field in fields):
        raise ValueError("A field holds NUL.")
    return "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> Configuration:
    """Decode the result of `encode`. Raises ValueError or TypeError for any other bytes."""
    fields: dict[str, str | int] = {}
    for field in data.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, _, value = field.partition("=")
        is_number = Configuration.__annotations__.get(name) == "int"
        fields[name] = int(value) if is_number else value
    return Configuration(**fields)
