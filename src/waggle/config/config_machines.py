# SPDX-License-Identifier: Apache-2.0
"""The settings of machines: which hypervisor runs them, and how. A part of `config_sections`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from waggle.config.base import Section, Whole, setting
from waggle.config.parsers import OptionalPath, Program, Programs, lower


class MachineSection(Section):
    """Virtual machines."""

    hypervisor: Annotated[Literal["auto", "krun", "qemu"], BeforeValidator(lower)] = setting(
        "auto", "What runs the machines; `auto` takes libkrun where it is usable, else QEMU."
    )
    libkrun_path: OptionalPath = setting(
        "", "The libkrun library, 1.17 or later and below 2; nothing means the loader's own."
    )
    libkrunfw_path: OptionalPath = setting(
        "",
        "The libkrunfw library, 5.x, that `waggle setup` takes the guest kernel from; nothing "
        "means the Debian package.",
    )
    accel: Annotated[Literal["auto", "kvm", "tcg"], BeforeValidator(lower)] = setting(
        "auto",
        "Hardware virtualisation (`kvm`) or emulation (`tcg`); `auto` takes KVM where usable.",
    )
    qemu_binary: Program = setting("qemu-system-x86_64", "The QEMU program.")
    qemu_older: Programs = setting(
        "",
        "Other QEMU programs. Paused environments and snapshots go on only with the very QEMU that "
        "made them: when you upgrade, keep the old one, with its files, and name it here.",
    )
    templates: Annotated[Literal["on", "built", "off"], BeforeValidator(lower)] = setting(
        "on",
        "Whether QEMU's machines go on from frozen ones instead of booting: `on` makes what is "
        "missing in the background, `built` uses what is there and makes none, `off` uses none.",
    )
    template_sharing: Annotated[Literal["all", "owner"], BeforeValidator(lower)] = setting(
        "all",
        "Whose machines go on from the same template, and so share its memory until they write: "
        "those of `all`, or of one `owner` only, who then waits for a boot the first time. With "
        "`owner`, machines of the warm pool boot.",
    )
    prefer: Annotated[Literal["isolation", "speed"], BeforeValidator(lower)] = setting(
        "isolation",
        "What `WAGGLE_HYPERVISOR=auto` takes where both could run: `isolation` is libkrun, `speed` "
        "is QEMU with KVM, whose machines can be frozen.",
    )
    ssh_port_base: Whole = setting(
        "10000", "First port on 127.0.0.1 for the machines.", ge=1024, le=65_535
    )
    ssh_port_max: Whole = setting(
        "11000", "End of that range; this port is not used any more.", ge=1025, le=65_536
    )
    vm_uid_base: Whole = setting(
        "1900000000",
        "When waggle runs as root, a machine's process gets this user id plus its port.",
        ge=65_536,
        le=4_294_000_000,
    )
    vm_disk_mb_per_second: Whole = setting(
        "256",
        "MiB a second that one machine may read from the host's disk, and as many that it may "
        "write, where the host has cgroup v2; 0 means no limit.",
        ge=0,
        le=1_000_000,
    )
