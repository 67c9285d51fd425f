# SPDX-License-Identifier: Apache-2.0
"""The identity: what makes one machine this environment and no other. Pure.

It reaches a guest on a disk when it boots, and as records when it is the copy of a frozen one
(`infra.guest.renewal`).
"""

from __future__ import annotations

from collections.abc import Mapping

from waggle.infra.guest.records import END, record

_SIZE_STEP = 64 * 1024
"""A disk smaller than the kernel's partition probes makes it complain on the console."""
MAX_USER, MAX_PATH = 255, 4095
MAX_ENVIRONMENT = 64 * 1024
"""Bytes of variables with their names; the kit reads no more (kit/guest/waggle.h)."""


RENEWED = ("host_key", "authorized_keys", "hostname", "environment", "machine-id", "seed")
"""The records in which two machines differ that are otherwise alike."""
CLAIMED = ("hostname", "environment", "machine-id", "seed")
"""The records that make a machine which was nobody's an environment; its keys are its own."""
HANG_UP = {"hang-up": b""}
"""The record that ends what the host's connections of before have left: it has given them up."""
DRAWN_BYTES = 80
"""For the machine's id, 16, and to seed the guest kernel's random state, 64."""


def identity_records(
    *,
    host_key: bytes,
    authorized_keys: bytes,
    hostname: str,
    environment: Mapping[str, str],
    certificates: bytes = b"",
    user: str = "",
    directory: str = "",
    shell: str = "",
) -> dict[str, bytes]:
    """The records. `host_key` is in dropbear's format, `certificates` is PEM or empty.

    `user`, `directory` and `shell` are what the image asks for (`domain.image.BootImage`).
    Raises ValueError when a variable cannot be expressed or a record is too long.
    """
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"the variable {name!r} cannot be expressed")
    variables = "".join(f"{name}={value}\0" for name, value in environment.items())
    if len(variables.encode()) > MAX_ENVIRONMENT:
        raise ValueError(f"the variables are over {MAX_ENVIRONMENT} bytes together")
    records = {
        "host_key": host_key,
        "authorized_keys": authorized_keys,
        "hostname": hostname.encode("ascii"),
        "environment": variables.encode(),
    }
    if certificates:
        records["ca.pem"] = certificates
    wishes = (
        ("user", user, MAX_USER),
        ("directory", directory, MAX_PATH),
        ("shell", shell, MAX_PATH),
    )
    for name, wish, limit in wishes:
        data = wish.encode()
        if len(data) > limit or b"\0" in data:
            raise ValueError(f"the image's {name} is too long or has a NUL in it")
        if data:
            records[name] = data
    return records


def drawn_records(drawn: bytes) -> dict[str, bytes]:
    """More records, from DRAWN_BYTES of the host's random source, fresh for each machine."""
    return {"machine-id": f"{drawn[:16].hex()}\n".encode(), "seed": drawn[16:]}


def pack(records: Mapping[str, bytes]) -> bytes:
    """Records in the order given, ended and padded. Raises ValueError when one is too long."""
    body = b"".join(record(name, data) for name, data in records.items()) + END
    return body.ljust(-(-len(body) // _SIZE_STEP) * _SIZE_STEP, b"\0")
