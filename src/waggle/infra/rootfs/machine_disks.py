# SPDX-License-Identifier: Apache-2.0
"""The identity records and the scratch disk of a machine. Called by `service.local`.

The identity distinguishes a machine from all others. A booting guest reads it from a disk; a copy
of a frozen machine gets it as records (`infra.guest.renewal`). The scratch disk is the writable
layer of one environment, an ext4 file system in a sparse file. The functions on records are pure.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from waggle.infra.guest.renewal import END, record
from waggle.infra.shared import debian
from waggle.infra.shared.files import FileLock
from waggle.infra.shared.sparse import clone
from waggle.infra.shared.work import place, workspace
from waggle.tasks import finish

_SIZE_STEP = 64 * 1024
"""The kernel logs errors on the console for a disk that is smaller than its partition probes."""
MAX_USER, MAX_PATH = 255, 4095
MAX_ENVIRONMENT = 64 * 1024
"""Bytes of variables with their names; the kit's limit (kit/guest/waggle.h)."""


MACHINE_ID = "machine-id"
CLAIMED = ("hostname", "environment", "network", MACHINE_ID, "seed")
"""The records that make an unowned machine an environment; it keeps its own keys."""
CERTIFICATES = "ca.pem"
"""The record with the authorities that a guest trusts beside its own."""
RENEWED = ("host_key", "authorized_keys", *CLAIMED)
"""The records that differ between two otherwise equal machines."""
HANG_UP = {"hang-up": b""}
"""The record that ends the remains of the host's abandoned connections in the guest."""
AGENT_POLICY = "agent-policy"
"""The record that narrows what the guest's agent may do (kit/guest/agent.c)."""
RESTART_AGENT = {"restart-agent": b""}
"""The record that has PID 1 end the guest's agent and start another."""
SEED_BYTES = 64
"""For the guest kernel's random state; the kit's limit (kit/guest/identity.c)."""


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
    """Return the records. `host_key` is in dropbear's format, `certificates` is PEM or empty.

    `user`, `directory` and `shell` come from the image (`domain.image.BootImage`). Raises
    ValueError when a variable cannot be expressed or a record is too long.
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
        records[CERTIFICATES] = certificates
    texts = (
        ("user", user, MAX_USER),
        ("directory", directory, MAX_PATH),
        ("shell", shell, MAX_PATH),
    )
    for name, text, limit in texts:
        data = text.encode()
        if len(data) > limit or b"\0" in data:
            raise ValueError(f"the image's {name} is too long or has a NUL in it")
        if data:
            records[name] = data
    return records


NEVER_FAR = ("0.0.0.0/8", "224.0.0.0/3")
"""Addresses that programs find unreachable, as they do without a network: multicast and what nobody
has. 127.0.0.0/8 is always the guest's own."""
MAYBE_OWN = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
"""Ranges where a guest may have networks of its own, as those of containers."""


def network_records(*, is_there: bool) -> dict[str, bytes]:
    """Return the record that says whether programs have a network.

    If so, connections to all addresses but NEVER_FAR go to the proxy, unless the guest has networks
    of its own in MAYBE_OWN. Whether they get further is the proxy's business alone: no rule is
    here, so that whatever is refused is recorded, and nothing is sent anew when rules change.
    """
    never, maybe = (f"-{block}" for block in NEVER_FAR), (f"~{block}" for block in MAYBE_OWN)
    ranges = ("0.0.0.0/0", *never, *maybe) if is_there else ()
    return {"network": " ".join(ranges).encode()}


def machine_records(owner: str, seed: bytes) -> dict[str, bytes]:
    """Return the machine id, always the same for one owner, and the seed of this machine.

    `owner` is the unique id of what the machine belongs to, which the machine id does not tell;
    `seed` is SEED_BYTES of the host's random source, new for every machine.
    """
    drawn = hashlib.sha256(f"{MACHINE_ID} {owner}".encode()).hexdigest()
    return {MACHINE_ID: f"{drawn[:32]}\n".encode(), "seed": seed}


def pack(records: Mapping[str, bytes]) -> bytes:
    """Encode records in their order, with end and padding. Raises ValueError if one is too long."""
    body = b"".join(record(name, data) for name, data in records.items()) + END
    return body.ljust(-(-len(body) // _SIZE_STEP) * _SIZE_STEP, b"\0")


_FORMAT = 2
_LOCK_SECONDS = 60.0
_UUID = "c6d5b2a0-6a5e-4d0b-9f3b-2f1f8f6f7a01"
"""The same for every scratch disk: nothing mounts by it, and equal inputs make equal disks."""


class ScratchDisks:
    """The maker of scratch disks. Safe for several processes.

    An empty disk of every size is made once with mke2fs, kept in `directory` and copied, data only,
    which takes milliseconds.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`, which must not exist.

        Raises SetupIncomplete without mke2fs, OSError when the host's disk is full.
        """
        template = await self._template(mib)
        await finish(asyncio.to_thread(clone, template, target))

    async def _template(self, mib: int) -> Path:
        path = self._directory / f"scratch-{mib}.v{_FORMAT}.ext4"
        if path.exists():
            return path
        self._directory.mkdir(parents=True, exist_ok=True)
        async with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            if not path.exists():
                await self._format(mib, path)
        return path

    async def _format(self, mib: int, path: Path) -> None:
        with workspace(self._directory) as work:
            disk, commands = work / "disk", work / "commands"
            disk.touch()
            os.truncate(disk, mib << 20)
            commands.write_text("mkdir upper\nmkdir work\n", "ascii")
            await debian.run(mke2fs_argv(disk))
            await debian.run([_tool("debugfs"), "-w", "-f", str(commands), str(disk)])
            disk.chmod(0o444)
            await asyncio.to_thread(place, disk, path)


def mke2fs_argv(disk: Path) -> list[str]:
    """Return the command that formats the empty file `disk`. Pure except for finding the program.

    No journal: the disk dies with its machine. mke2fs discards the file first and so knows that its
    inode tables are zeros: the guest's kernel need not write them. Only as root can it make
    directories that belong to root (`-d` keeps their owner), so debugfs makes `upper` and `work`.
    """
    return [
        *(_tool("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0", "-U", _UUID),
        *("-O", "^has_journal,^resize_inode", "-i", "8192"),
        *("-E", f"discard,root_owner=0:0,hash_seed={_UUID}", str(disk)),
    ]


def _tool(name: str) -> str:
    """Find a program that Debian keeps off the PATH of users who are not root."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or name
