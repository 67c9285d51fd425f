# SPDX-License-Identifier: Apache-2.0
"""The outer machine's QEMU command line: an emulated AMD CPU whose SVM KVM can use. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROGRESS = "lab.progress"
MEMORY_MIB = 3072
CPU = "max,erms=off,fsrm=off,la57=off,vgif=off,v-vmsave-vmload=off"
"""Leaves out features that KVM does not need: QEMU's emulation of them is younger and slow. With
ERMS, kernels copy and clear memory by single bytes, which QEMU emulates one by one: boots take half
as long again. FSRM, which QEMU 10 has, implies ERMS: with only one of them Debian 12's kernel
hangs."""
COMMAND_LINE = "console=ttyS0 panic=-1 random.trust_cpu=on"
_TRANSLATION_BUFFER_MIB = 512


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks in the order of their names, /dev/vda first. The first two are never changed."""

    base: Path
    parts: Path
    project: Path
    report: Path


def qemu_argv(
    binary: str,
    *,
    kernel: Path,
    initramfs: Path,
    disks: Disks,
    console: Path,
    progress: int,
) -> list[str]:
    """Return the whole command line. `progress` is a connected socket that QEMU inherits."""
    return [
        *("setpriv", "--pdeathsig=KILL", "--", binary, "-M", "q35,usb=off,vmport=off"),
        *("-accel", f"tcg,thread=multi,tb-size={_TRANSLATION_BUFFER_MIB}", "-cpu", CPU),
        *("-smp", "1", "-m", f"{MEMORY_MIB}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", COMMAND_LINE),
        *("-chardev", f"file,id=console,path={_escape(console)}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=progress,fd={progress}"),
        *("-device", f"virtserialport,chardev=progress,name={PROGRESS}"),
        # With snapshot=on, writes go to an unnamed temporary file.
        *_drive(disks.base, "snapshot=on"),
        *_drive(disks.parts, "snapshot=on"),
        *_drive(disks.project, "read-only=on"),
        *_drive(disks.report, "cache=unsafe"),
    ]


def _drive(path: Path, option: str) -> list[str]:
    return ["-drive", f"if=virtio,format=raw,file={_escape(path)},{option}"]


def _escape(path: Path) -> str:
    """Escape a path for an option's value: QEMU reads a doubled comma as one."""
    return str(path).replace(",", ",,")
