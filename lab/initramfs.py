# SPDX-License-Identifier: Apache-2.0
"""The outer machine's initramfs: a shell, the modules that reach its disk, and KVM.

Pure except for reading the tree of Debian packages. Called by `lab.assemble`. The Debian kernel has
ext4 built in and everything else as modules.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "erofs", "overlay", "loop", "kvm_amd")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
OPTIONS = {"kvm_amd": "nested=1 npt=1"}
INIT = """\
#!/bin/busybox sh
# PID 1 until the disk is mounted.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
{load}
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    $b sleep 0.1
done
$b mount -t ext4 -o noatime /dev/vda /root || exec $b poweroff -f
$b mount -t ext4 -o noatime /dev/vdb /root/var/lib/waggle || exec $b poweroff -f
$b tar -x -f /dev/vdc -C /root/lab || exec $b poweroff -f
$b mount --move /dev /root/dev
$b umount /proc
exec $b switch_root /root /lab/init
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or device of a cpio archive. `device` is major and minor."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """Pack a cpio archive in the format that the kernel reads. Pure."""
    out = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device)
        header = "070701" + "".join(f"{field:08X}" for field in (*fields, len(name), 0))
        out += header.encode() + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def needed_by(module: bytes) -> list[str]:
    """Return the names in the `depends` entry of a module's .modinfo. Pure."""
    found = _DEPENDS.search(module)
    return [name.decode() for name in found.group(1).split(b",") if name] if found else []


def load_order(wanted: Sequence[str], read: Callable[[str], bytes]) -> list[str]:
    """Return the modules to insert, each after its dependencies. Pure except for `read`.

    `read` returns a module's file by name and raises KeyError if there is none.
    """
    order: list[str] = []

    def add(name: str) -> None:
        if name not in order:
            for needed in needed_by(read(name)):
                add(needed.replace("-", "_"))
            order.append(name)

    for name in wanted:
        add(name)
    return order


def module_name(file: str) -> str:
    """Return the kernel's name of a module file such as `kernel/arch/x86/kvm/kvm-amd.ko`. Pure."""
    return PurePosixPath(file).name.partition(".")[0].replace("-", "_")


def init_script(modules: Sequence[str], options: Mapping[str, str]) -> str:
    """Return the script that loads `modules` and continues from the disk. Pure."""
    lines = [f"$b insmod /modules/{name}.ko {options.get(name, '')}".strip() for name in modules]
    return INIT.replace("{load}", "\n".join(lines))


def build(tree: Path) -> bytes:
    """Build the archive for the one kernel in `tree`. Raises OSError or KeyError without it."""
    files = {module_name(file.name): file for file in (tree / "lib/modules").rglob("*.ko")}
    order = load_order(MODULES, lambda name: files[name].read_bytes())
    directories = ("bin", "dev", "modules", "proc", "root")
    programs = {
        "bin/busybox": (tree / "bin/busybox").read_bytes(),
        "init": init_script(order, OPTIONS).encode(),
    }
    loaded = {f"modules/{name}.ko": files[name].read_bytes() for name in order}
    return newc(
        [
            *(Entry(name, stat.S_IFDIR | 0o755) for name in directories),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            *(Entry(name, stat.S_IFREG | 0o755, data) for name, data in programs.items()),
            *(Entry(name, stat.S_IFREG | 0o644, data) for name, data in loaded.items()),
        ]
    )
