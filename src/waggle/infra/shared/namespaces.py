# SPDX-License-Identifier: Apache-2.0
"""Namespaces, a small read-only root and another user, for a process that leaves the host's view.

Called by `krun.runner`, `qemu.starter` and `vmm.starter`, which know the files that their machine
needs, and never by the server itself. Raises OSError with the call that the kernel refused. This
and `seccomp` are part of every boot: only `_cffi_backend` and built-in or cheap modules may be
imported.
"""

from __future__ import annotations

import os

from waggle.infra.shared._abi import ffi

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from waggle.infra.shared._abi import LibC

LIBC = """
int unshare(int flags);
int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const char *options);
int umount2(const char *target, int flags);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int capset(void *header, const void *data);
long syscall(long number, ...);
"""
"""The functions of the C library in `_abi.py`; after a change run `python -m tests.support.abi`."""

_NEW_NS, _NEW_UTS, _NEW_IPC = 0x20000, 0x4000000, 0x8000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, BIND, _RECURSIVE, _PRIVATE, _DETACH = 32, 4096, 16384, 1 << 18, 2
PLAIN = NO_SUID | _NO_DEV | _NO_EXEC
_SET_PDEATHSIG, _SIGKILL = 1, 9
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITIES_V3 = 0x20080522
_OOM_SCORE = b"500"
_INODES = 128
"""Names in a small root: whoever may write to it fills no more of the kernel's memory."""


def die_first() -> None:
    """Raise the OOM score: short of memory, the kernel ends this machine before the server (0)."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(descriptor, _OOM_SCORE)
    os.close(descriptor)


def enter(libc: LibC, *, user: bool, processes: bool = False) -> None:
    """Enter new namespaces for mounts, network, queues and names; `user`: one for users, too.

    A process that is not root needs `user`. With `processes`, its children are in a new one: the
    kernel ends them all with the first of them.
    """
    own = (os.getuid(), os.getgid())
    flags = _NEW_NS | _NEW_NET | _NEW_IPC | _NEW_UTS | (_NEW_PID if processes else 0)
    _check(libc.unshare(flags | _NEW_USER if user else flags), "unshare")
    if not user:
        return
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{own[0]} {own[0]} 1"),
        ("gid_map", f"{own[1]} {own[1]} 1"),
    ):
        descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)


class SmallRoot:
    """A separate root file system, mounted over `place`, which must be a directory of the host.

    First open (O_PATH) everything that comes from the host, then `begin`, fill it and `pivot`.
    """

    def __init__(self, libc: LibC, place: str) -> None:
        self._libc = libc
        self._place = place

    def begin(self, kib: int = 64, flags: int = PLAIN) -> None:
        """Mount it and change to it: later names are relative. The host's mounts do not change."""
        self.mount(None, "/", None, _RECURSIVE | _PRIVATE)
        options = f"size={kib}k,nr_inodes={_INODES},mode=0755"
        self.mount(None, self._place, "tmpfs", flags, options)
        os.chdir(self._place)

    def directory(self, name: str) -> None:
        """Make a directory and its parents."""
        made = ""
        for part in name.split("/") if name else ():
            made += part
            if not os.access(made, os.F_OK):
                os.mkdir(made)  # noqa: PTH102  (pathlib takes too long to import)
            made += "/"

    def bind(self, held: int, name: str, *, file: bool = False, read_only: bool = False) -> None:
        """Bind an open file or directory of the host (O_PATH), with the mounts inside it."""
        if file:
            self.directory(os.path.dirname(name))  # noqa: PTH120
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        else:
            self.directory(name)
        self.mount(f"/proc/self/fd/{held}", name, None, BIND | _RECURSIVE)
        if read_only:  # keep the existing flags: a user namespace may not clear them
            kept = os.statvfs(name).f_flag & (PLAIN | READ_ONLY)
            flags = kept | READ_ONLY | NO_SUID | _NO_DEV
            self.mount(None, name, None, _REMOUNT | BIND | flags)

    def write(self, name: str, text: str) -> None:
        """Make a file in an existing directory, which everybody may read."""
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, text.encode())  # whole, or its reader complains
        os.close(descriptor)

    def device(self, path: str) -> None:
        """Bind a device if it exists."""
        if os.access(path, os.F_OK):
            held = os.open(path, os.O_PATH)
            self.bind(held, path[1:], file=True)
            os.close(held)

    def processes(self, name: str = "proc") -> None:
        """Mount `proc` with only the entries of this process."""
        self.directory(name)
        try:
            self.mount(None, name, "proc", PLAIN, "hidepid=2")
        except OSError:  # in a user namespace
            self.directory(f"{name}/self")
            self.mount("/proc/self", f"{name}/self", None, BIND)

    def pivot(self) -> None:
        """Make it the root, read-only, and unmount the host's."""
        number = _PIVOT_ROOT.get(os.uname().machine, -1)  # the kernel refuses -1
        here = ffi.new("char[]", b".")
        _check(self._libc.syscall(number, here, here), "pivot_root")
        _check(self._libc.umount2(b".", _DETACH), "umount2")
        os.chdir("/")
        self.mount(None, "/", None, _REMOUNT | BIND | READ_ONLY | PLAIN)

    def mount(
        self, source: str | None, target: str, kind: str | None, flags: int, options: str = ""
    ) -> None:
        """Call the kernel once. Raises OSError."""
        result = self._libc.mount(
            ffi.NULL if source is None else os.fsencode(source),
            os.fsencode(target),
            ffi.NULL if kind is None else kind.encode(),
            flags,
            options.encode() if options else ffi.NULL,
        )
        _check(result, f"mount on {target}")


def become(libc: LibC, uid: int, groups: Sequence[int]) -> None:
    """Become user `uid` with these groups; with -1 keep the user and drop all capabilities."""
    if uid >= 0:
        os.setgroups(list(groups))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    else:
        header = ffi.new("uint32_t[2]", [_CAPABILITIES_V3, 0])
        _check(libc.capset(header, ffi.new("uint32_t[6]")), "capset")


def die_with(libc: LibC, parent: int, number: int = _SIGKILL) -> None:
    """Be killed with `parent`, or get this signal; the change of the user cleared that setting.

    Raises ProcessLookupError when the parent has already ended.
    """
    _check(libc.prctl(_SET_PDEATHSIG, number, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        raise ProcessLookupError("The server is gone.")


def _check(result: int, name: str) -> None:
    if result != 0:
        raise OSError(ffi.errno, f"{name}: {os.strerror(ffi.errno)}")
