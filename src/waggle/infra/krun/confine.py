# SPDX-License-Identifier: Apache-2.0
"""A runner gives up what a machine does not need, just before it becomes one.

Afterwards: a user of its own, no capabilities, no network at all, none of the host's System V or
POSIX queues, no new processes or programs (`seccomp`), and a file system with /dev/kvm, the
directory of its socket and its own entries of /proc. Where the kernel does not allow namespaces
(some containers), the rest still holds. New privileges, core dumps and descriptors were limited by
`waggle.infra.confined` before.
"""

from __future__ import annotations

import os

from waggle.infra.krun import seccomp
from waggle.infra.krun._abi import ffi
from waggle.infra.krun.configuration import Configuration

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.krun._abi import LibC

_NEW_NS, _NEW_USER, _NEW_IPC, _NEW_NET = 0x20000, 0x10000000, 0x08000000, 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _DETACH = 32, 4096, 16384, 1 << 18, 2
_PLAIN = _NO_SUID | _NO_DEV | _NO_EXEC
_SET_PDEATHSIG, _SIGKILL = 1, 9
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITIES_V3 = 0x20080522


def confine(configuration: Configuration) -> None:
    """Confine this process and change to the directory of its socket. Not to be undone.

    Raises OSError when the user cannot be changed, and ProcessLookupError when the server is gone.
    """
    libc = ffi.dlopen(None)
    os.umask(0o022)  # its user has to pass through the directories made here
    try:
        _enter_namespaces(libc, configuration.uid)
        _narrow_view(libc, configuration)
    except OSError as error:
        os.write(2, f"waggle: the runner keeps the host's view: {error}\n".encode())
        os.fchdir(configuration.directory_fd)
    os.close(configuration.directory_fd)  # through it the host's files could be reached
    _become(libc, configuration)
    # Changing the user made the kernel forget who has to be alive.
    _check(libc.prctl(_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != configuration.parent:
        raise ProcessLookupError("The server is gone.")
    seccomp.install(libc)


def _check(result: int, name: str) -> None:
    if result != 0:
        raise OSError(ffi.errno, f"{name}: {os.strerror(ffi.errno)}")


def _enter_namespaces(libc: LibC, uid: int) -> None:
    """New ones for mounts, network and queues; who is not root needs one for users, too."""
    own = (os.getuid(), os.getgid())
    flags = _NEW_NS | _NEW_NET | _NEW_IPC
    _check(libc.unshare(flags if uid >= 0 else flags | _NEW_USER), "unshare")
    if uid >= 0:
        return
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{own[0]} {own[0]} 1"),
        ("gid_map", f"{own[1]} {own[1]} 1"),
    ):
        descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _narrow_view(libc: LibC, configuration: Configuration) -> None:
    """Make a small read-only root over the socket's directory, and let go of all else."""

    def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int) -> None:
        options = b"size=64k,mode=0755" if kind == b"tmpfs" else b"hidepid=2"
        result = libc.mount(
            source or ffi.NULL, target, kind or ffi.NULL, flags, options if kind else ffi.NULL
        )
        _check(result, f"mount on {target.decode('utf-8', 'replace')}")

    root = os.fsencode(configuration.directory)
    mount(None, b"/", None, _RECURSIVE | _PRIVATE)
    directory = os.open(root, os.O_PATH)  # the inherited one is of the host's name space
    mount(b"tmpfs", root, b"tmpfs", _PLAIN)
    os.chdir(root)
    for name in ("dev", "proc", "run"):
        os.mkdir(name)  # noqa: PTH102  (pathlib takes too long to import)
    if os.access("/dev/kvm", os.F_OK):
        os.close(os.open("dev/kvm", os.O_CREAT | os.O_WRONLY))
        mount(b"/dev/kvm", b"dev/kvm", None, _BIND)
    mount(f"/proc/self/fd/{directory}".encode(), b"run", None, _BIND)
    os.close(directory)
    try:
        mount(b"proc", b"proc", b"proc", _PLAIN)
    except OSError:  # in a user namespace
        os.mkdir("proc/self")  # noqa: PTH102
        mount(b"/proc/self", b"proc/self", None, _BIND)
    number = _PIVOT_ROOT.get(os.uname().machine, -1)  # which the kernel refuses
    here = ffi.new("char[]", b".")
    _check(libc.syscall(number, here, here), "pivot_root")
    _check(libc.umount2(b".", _DETACH), "umount2")
    os.chdir("/")
    mount(None, b"/", None, _REMOUNT | _BIND | _READ_ONLY | _PLAIN)
    os.chdir("run")


def _become(libc: LibC, configuration: Configuration) -> None:
    """Another user without groups but KVM's; who cannot become one gives up capabilities."""
    uid, group = configuration.uid, configuration.kvm_gid
    if uid >= 0:
        os.setgroups([group] if group >= 0 else [])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    else:
        header = ffi.new("uint32_t[2]", [_CAPABILITIES_V3, 0])
        _check(libc.capset(header, ffi.new("uint32_t[6]")), "capset")
