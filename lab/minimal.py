# SPDX-License-Identifier: Apache-2.0
"""The smallest program that boots waggle's guest with libkrun.

The benchmarks compare the krun hypervisor with it, so it has no runner, no confinement, no code of
waggle, and uses only the standard library.

`python minimal.py --kernel K DISK...` shows the guest's console; disks that end in `:rw` are
writable. `--ssh SOCKET` connects that unix socket to the guest's vsock port 22; `--call SOCKET`
answers the guest's connections to port 1024 of the host there. The process ends with the guest.
"""

from __future__ import annotations

import argparse
import ctypes
import sys

COMMAND_LINE = (
    "root=/dev/vda rootfstype=erofs ro init=/init console=hvc0 reboot=k panic=-1 quiet"
    " no-kvmapf random.trust_cpu=on"
)
ELF, RAW_DISK = 1, 0


class Krun:
    """libkrun's functions: each returns 0 or an id, or -errno, which becomes an OSError."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def __call__(self, name: str, *arguments: int | bytes | ctypes.c_bool | None) -> int:
        """Call `krun_<name>`."""
        result: int = getattr(self._library, f"krun_{name}")(*arguments)
        if result < 0:
            raise OSError(-result, f"krun_{name} failed: {-result}")
        return result


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line. Exits if it is wrong."""
    parser = argparse.ArgumentParser(prog="minimal", description="Boot a guest with libkrun.")
    parser.add_argument("--library", default="libkrun.so.1")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--console", default="/dev/stdout", help="file for the guest's console")
    parser.add_argument("--ssh", help="unix socket that leads to the guest's vsock port")
    parser.add_argument("--call", help="listening unix socket that the guest may connect to")
    parser.add_argument("--ssh-port", type=int, default=22)
    parser.add_argument("--call-port", type=int, default=1024)
    parser.add_argument("--log", type=int, default=2, help="of libkrun: 0 off, 5 everything")
    parser.add_argument("--append", default="", help="more words for the kernel")
    parser.add_argument("disks", nargs="+", metavar="DISK[:rw]")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Boot. Does not return: libkrun ends the process when the guest ends."""
    asked = parse(argv)
    krun = Krun(asked.library)
    krun("init_log", 2, asked.log, 2, 1)
    context = krun("create_ctx")
    krun("set_vm_config", context, asked.cpus, asked.memory)
    krun("disable_implicit_init", context)
    command_line = f"{COMMAND_LINE} {asked.append}".strip().encode()
    krun("set_kernel", context, asked.kernel.encode(), ELF, None, command_line)
    for number, disk in enumerate(asked.disks):
        path, _, mode = disk.partition(":")
        read_only = ctypes.c_bool(mode != "rw")
        name = f"disk{number}".encode()
        krun("add_disk2", context, name, path.encode(), RAW_DISK, read_only)
    krun("disable_implicit_vsock", context)
    krun("add_vsock", context, 0)
    for path, port, listen in (
        (asked.ssh, asked.ssh_port, True),
        (asked.call, asked.call_port, False),
    ):
        if path:
            krun("add_vsock_port2", context, port, path.encode(), ctypes.c_bool(listen))
    krun("set_console_output", context, asked.console.encode())
    krun("start_enter", context)


if __name__ == "__main__":
    main(sys.argv[1:])
