# SPDX-License-Identifier: Apache-2.0
"""The two kinds of machines that QEMU gives a guest, as data: one for each guest kernel.

`argv` writes a command line for one; the composition root chooses it. Both have the same disks,
channels and card, on another bus. Knows nothing of how a machine is run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from waggle.domain.machine import Capabilities
from waggle.infra.guest.link import KERNEL_ARGUMENTS


@dataclass(frozen=True, slots=True)
class Board:
    """A machine of QEMU's, what its devices are called, and its kernel's arguments."""

    machine: str
    bus: str
    """The end of the names of its virtio devices."""
    options: str
    """Of each of these devices."""
    command_line: str
    has_initrd: bool

    def device(self, name: str, options: str = "") -> tuple[str, str]:
        """Return the arguments for one virtio device. `options` begins with a comma."""
        return "-device", f"virtio-{name}-{self.bus}{self.options}{options}"

    @property
    def capabilities(self) -> Capabilities:
        """What its machines can."""
        return Capabilities(freezes=True, stops_when_full=True, containers=self.has_initrd)

    def with_counter(self, tsc_khz: int | None) -> Board:
        """Return a board whose kernel knows its counter's frequency, if it cannot measure it."""
        if not tsc_khz:
            return self
        line = f"{self.command_line} tsc_early_khz={tsc_khz} tsc=reliable"
        return replace(self, command_line=line)


# The kernel has virtio-mmio only: no PCI, ACPI, 8250 or initrd. Without a PIT and PIC it hangs
# under TCG before it prints; with `-no-reboot`, a guest reboot ends QEMU. On a busy host an
# emulated timer ticks too late for the kernel's timer check, which then panics before there is a
# console; with KVM the kernel skips that check and has a clock.
_COMMAND_LINE = f"{KERNEL_ARGUMENTS} reboot=t no_timer_check"
SMALL: Final = Board(
    machine="microvm,acpi=off,isa-serial=off,rtc=on,pcie=off,usb=off",
    bus="device",
    options="",
    command_line=_COMMAND_LINE,
    has_initrd=False,
)
# Debian's kernel turns AppArmor on, and engines of containers would look for its programs. Its
# watchdog takes the time for which a machine was paused for a hang.
FULL: Final = Board(
    machine="q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,graphics=off,hpet=off",
    bus="pci",
    options=",disable-legacy=on",
    command_line=f"{_COMMAND_LINE} nowatchdog apparmor=0",
    has_initrd=True,
)
