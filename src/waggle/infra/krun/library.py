# SPDX-License-Identifier: Apache-2.0
"""A typed wrapper of libkrun: a call succeeds or raises `KrunError` with the call's name.

Used by `runner` and `probe`, which knows the versions that have each function. Imports next to
nothing, because the runner pays for it at every boot.
"""

from __future__ import annotations

import errno
import os

from waggle.infra.krun._abi import ffi

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from collections.abc import Callable

    from waggle.infra.krun._abi import Pointer

# libkrun returns 0 or a non-negative id on success, -errno on failure, and reads every string
# before it returns. A context id of 0 is valid. Only `initramfs` is passed as NULL, which libkrun
# checks for. `krun_start_enter` returns only when the machine could not be built; otherwise the
# process ends with the guest.
LIBKRUN = """
int32_t krun_init_log(int target_fd, uint32_t level, uint32_t style, uint32_t options);
int32_t krun_create_ctx(void);
int32_t krun_set_vm_config(uint32_t ctx, uint8_t cpus, uint32_t mib);
int32_t krun_set_kernel(uint32_t ctx, const char *kernel, uint32_t format,
                        const char *initramfs, const char *command_line);
int32_t krun_add_disk2(uint32_t ctx, const char *id, const char *path, uint32_t format,
                       bool read_only);
int32_t krun_add_disk3(uint32_t ctx, const char *id, const char *path, uint32_t format,
                       bool read_only, bool direct_io, uint32_t sync_mode);
int32_t krun_disable_implicit_init(uint32_t ctx);
int32_t krun_disable_implicit_vsock(uint32_t ctx);
int32_t krun_add_vsock(uint32_t ctx, uint32_t tsi_features);
int32_t krun_add_vsock_port2(uint32_t ctx, uint32_t port, const char *path, bool listen);
int32_t krun_set_console_output(uint32_t ctx, const char *path);
int32_t krun_add_virtio_console_multiport(uint32_t ctx);
int32_t krun_add_console_port_inout(uint32_t ctx, uint32_t console, const char *name,
                                    int input_fd, int output_fd);
int32_t krun_get_max_vcpus(void);
int32_t krun_start_enter(uint32_t ctx);
"""
"""The functions in `_abi.py`; after a change run `python -m tests.support.abi`."""

_RAW, _ELF = 0, 1
_NO_SYNC = 0
_LOG_TO, _LOG_ERRORS, _LOG_PLAIN, _LOG_FIXED = 2, 1, 2, 1


class KrunError(Exception):
    """A failed call of libkrun; the message names the call and its error."""


class Libkrun:
    """A loaded library and, after `create`, its one context, which becomes a machine.

    One per process: libkrun's log can be set up only once, and `start` takes the process.
    """

    def __init__(self, path: str) -> None:
        """Load the library. Raises KrunError when it cannot be loaded."""
        try:
            self._library = ffi.dlopen(path)
        except (OSError, ValueError) as error:  # ValueError for a path that is not UTF-8
            raise KrunError(f"libkrun cannot be loaded: {error}.") from error
        self._context = -1

    def has(self, function: str) -> bool:
        """Return whether the library exports this function."""
        return self._find(function) is not None

    def max_vcpus(self) -> int:
        """Return how many processors KVM gives one machine. Raises KrunError without KVM."""
        return self._call("krun_get_max_vcpus")

    def create(self) -> None:
        """Create the context. libkrun logs errors to stderr; no variable changes that."""
        self._call("krun_init_log", _LOG_TO, _LOG_ERRORS, _LOG_PLAIN, _LOG_FIXED)
        self._context = self._call("krun_create_ctx")

    def set_size(self, cpus: int, memory_mib: int) -> None:
        """Set the number of virtual processors and the memory."""
        self._configure("krun_set_vm_config", cpus, memory_mib)

    def set_kernel(self, path: str, command_line: str) -> None:
        """Set an ELF kernel and its whole command line, without initramfs or libkrun's init."""
        null = ffi.NULL
        self._configure("krun_set_kernel", os.fsencode(path), _ELF, null, command_line.encode())
        if self.has("krun_disable_implicit_init"):
            self._configure("krun_disable_implicit_init")

    def add_disk(self, name: str, path: str, *, read_only: bool) -> None:
        """Add the next block device, raw. Flushes are ignored where libkrun has that option."""
        common = (name.encode(), os.fsencode(path), _RAW, read_only)
        if self.has("krun_add_disk3"):
            self._configure("krun_add_disk3", *common, False, _NO_SYNC)
        else:
            self._configure("krun_add_disk2", *common)

    def add_vsock(self, port: int, socket: str) -> None:
        """Add a vsock device without TSI that connects the Unix `socket` to the guest's `port`.

        libkrun makes the socket when the guest starts its device. It must not exist before.
        """
        self._configure("krun_disable_implicit_vsock")
        self._configure("krun_add_vsock", 0)
        self._configure("krun_add_vsock_port2", port, os.fsencode(socket), True)

    def set_console(self, path: str) -> None:
        """Set the file that the first console writes to; the console reads nothing."""
        self._configure("krun_set_console_output", os.fsencode(path))

    def add_ports(self, *ports: tuple[str, int]) -> None:
        """Add a virtio-console device with named ports on descriptors of stream sockets."""
        console = self._configure("krun_add_virtio_console_multiport")
        for name, descriptor in ports:
            arguments = (console, name.encode(), descriptor, descriptor)
            self._configure("krun_add_console_port_inout", *arguments)

    def start(self) -> None:
        """Become the machine: the process ends with the guest, always with status 0.

        Raises KrunError when the machine could not be built.
        """
        self._configure("krun_start_enter")

    def _configure(self, name: str, *arguments: int | bytes | Pointer) -> int:
        return self._call(name, self._context, *arguments)

    def _find(self, name: str) -> Callable[..., int] | None:
        """Return the function, or None without it; cffi looks it up at the first access."""
        try:
            return getattr(self._library, name)
        except ffi.error:
            return None

    def _call(self, name: str, *arguments: int | bytes | Pointer) -> int:
        function = self._find(name)
        if function is None:
            raise KrunError(f"libkrun has no {name}.")
        try:
            result = function(*arguments)
        except OverflowError as error:
            raise KrunError(f"{name} does not take this: {error}.") from error
        if result < 0:
            code = errno.errorcode.get(-result, "?")
            raise KrunError(f"{name} failed: {os.strerror(-result)} ({code}).")
        return result
