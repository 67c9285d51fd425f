# SPDX-License-Identifier: Apache-2.0
"""A Debian system with systemd, as a disk and a kernel for `tests.support.debian_machine`.

Made by mmdebstrap and kept in the cache under a key of its ingredients. The cloud kernel has ext4
and NVMe built in, so it boots without an initramfs. The system is an ordinary one, but for a shell
at a port of its own, and without units that a test machine does not need. Needs root.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard
from lab.store import Store, key_of

from waggle.infra.host.requirements import find_program
from waggle.infra.shared import debian

SUITE: Final = debian.SUITE
SHELL_PORT: Final = "org.waggle.test.0"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "udev", "dbus", "apt", "perl-base", "procps", "util-linux"),
    *("linux-image-cloud-amd64", "rpm", "qemu-guest-agent"),
)
SIZE: Final = 2 << 30
"""Of a sparse file; a machine's writes are discarded with it."""
_KIND, _DISK, _KERNEL = "debian", "disk.ext4", "kernel"
_OPTIONS = (
    "--mode=root",
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=Apt::Install-Recommends "false"',
    "--dpkgopt=force-confold",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
)
_NO_INITRAMFS = (
    '--essential-hook=mkdir -p "$1"/etc/initramfs-tools && '
    'echo update_initramfs=no >"$1"/etc/initramfs-tools/update-initramfs.conf'
)
_SHELL = f"""\
#!/bin/sh
# Runs one command a line, in base64, as root; answers with its exit code and its output.
until [ -e /dev/virtio-ports/{SHELL_PORT} ]; do sleep 0.1; done
exec 3<>/dev/virtio-ports/{SHELL_PORT} || exit 1
echo "up $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r line <&3; do
    sh -c "$(printf %s "$line" | base64 -d)" </dev/null >/run/test-shell.out 2>&1 3>&-
    printf 'done %s %s\\n' "$?" "$(base64 -w0 /run/test-shell.out)" >&3
done
"""
_UNIT = """\
[Unit]
Description=Shell of the tests
[Service]
Environment=DEBIAN_FRONTEND=noninteractive
ExecStart=/usr/local/sbin/test-shell
Restart=always
RestartSec=200ms
KillMode=process
[Install]
WantedBy=multi-user.target
"""
_FILES: Mapping[str, str] = {
    "usr/local/sbin/test-shell": _SHELL,
    "etc/systemd/system/test-shell.service": _UNIT,
    "etc/machine-id": f"{0xA9E27:032x}\n",
    "etc/hostname": "machine\n",
    "etc/fstab": "",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap": "",
    **dict.fromkeys(("etc/.updated", "var/.updated"), ""),
    "etc/systemd/journald.conf.d/test.conf": "[Journal]\nStorage=volatile\n",
}
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "getty@tty1.service", "console-getty.service"),
    *("serial-getty@ttyS0.service", "systemd-hwdb-update.service", "kmod-static-nodes.service"),
    *("systemd-update-utmp.service", "systemd-pstore.service", "modprobe@drm.service"),
    *("systemd-binfmt.service", "systemd-network-generator.service", "ldconfig.service"),
    *("systemd-logind.service", "systemd-tmpfiles-clean.timer", "systemd-hostnamed.socket"),
    "qemu-guest-agent.service",
)


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a machine, which no machine changes."""

    disk: Path
    kernel: Path


def base_key(suite: str, more: Sequence[str] = ()) -> str:
    """Return the key of a base."""
    return key_of(suite, *more, Path(__file__).read_bytes())


async def ensure(
    store: Store,
    mirror: str,
    on_line: debian.OnLine,
    suite: str = SUITE,
    *,
    more: Sequence[str] = (),
) -> Base:
    """Return the base of a suite, made if it is missing. Raises SetupIncomplete.

    `more` are more packages: such a base is another kind, so that they do not displace each other.
    """

    async def make(directory: Path) -> None:
        tree = directory / "tree"
        argv = debian.tree_argv(
            mirror,
            suite=suite,
            packages=[*PACKAGES, *more],
            variant="minbase",
            hooks=[_NO_INITRAMFS],
            options=_OPTIONS,
            target=str(tree),
            form="directory",
        )
        await debian.run(argv, on_line)
        complete(tree)
        (kernel,) = (tree / "boot").glob("vmlinuz-*")
        (directory / _KERNEL).write_bytes(unpacked(kernel.read_bytes()))
        await debian.run(disk_argv(tree, directory / _DISK), on_line)
        shutil.rmtree(tree)

    kind = "_".join([_KIND, *more[:1]])
    made = await store.ensure(f"{kind}-{suite}", base_key(suite, more), make)
    return Base(made / _DISK, made / _KERNEL)


def unpacked(kernel: bytes) -> bytes:
    """Return the ELF file in a bzImage, which a machine would take ten seconds to unpack. Pure.

    The fields of its header are in the kernel's Documentation/arch/x86/boot.rst. An image that is
    packed in another way (Debian 12) stays as it is: QEMU boots both.
    """
    sectors = kernel[0x1F1] or 4
    at, length = struct.unpack_from("<II", kernel, 0x248)
    start = (sectors + 1) * 512 + at
    payload = kernel[start : start + length]
    if not payload.startswith(zstandard.FRAME_HEADER):
        return kernel
    return zstandard.ZstdDecompressor().decompressobj().decompress(payload)


def complete(tree: Path) -> None:
    """Add the shell and the settings, and mask what is not needed."""
    for name, text in _FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tree / "usr/local/sbin/test-shell").chmod(0o755)
    units = tree / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "test-shell.service").symlink_to("/etc/systemd/system/test-shell.service")
    for name in _MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")


def disk_argv(tree: Path, disk: Path) -> list[str]:
    """Return the command that makes the disk, an ext4 with a journal in a sparse file."""
    disk.touch()
    os.truncate(disk, SIZE)
    return [
        *(str(find_program("mke2fs") or "mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0"),
        *("-E", "root_owner=0:0,lazy_itable_init=1", "-d", str(tree), str(disk)),
    ]
