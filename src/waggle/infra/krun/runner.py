# SPDX-License-Identifier: Apache-2.0
"""The process of one machine: reads its configuration, confines itself, and becomes the machine.

`machine` sends the configuration to the process, which calls `main` and ends with the guest.
Earlier failures are reported on stderr, with exit status FAILED; 0 proves nothing, because libkrun
also ends with it after a panic. The process must finish its imports before it is confined, and
imports nearly nothing: dataclasses and JSON alone take longer than the rest of the start.
"""

from __future__ import annotations

import os
import sys

from waggle.infra.krun.library import KrunError, Libkrun
from waggle.infra.shared import namespaces, seccomp
from waggle.infra.shared._abi import ffi
from waggle.infra.shared.namespaces import BIND, SmallRoot

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.shared.seccomp import Instruction


class Configuration:
    """One machine; every field is required. Fields ending in `_fd` are inherited descriptors."""

    library: str
    kernel_fd: int
    command_line: str
    cpus: int
    memory_mib: int
    kit_fd: int
    image_fd: int
    scratch_fd: int
    identity_fd: int
    console_fd: int
    agent_port: str
    agent_fd: int
    renewal_port: str
    renewal_fd: int
    ssh_port: int
    """The port on the guest's vsock."""
    socket: str
    """The Unix socket that leads to `ssh_port`, made inside `directory`."""
    directory: str
    directory_fd: int
    uid: int
    """Also the group; -1 to keep the server's user."""
    kvm_gid: int
    """The group that may use /dev/kvm; -1 for none."""
    parent: int
    """The server's process."""

    def __init__(self, **fields: str | int) -> None:
        """Set every field. Raises TypeError for one that is missing, unknown or of another type."""
        kinds = {"str": str, "int": int}
        expected = Configuration.__annotations__
        if fields.keys() != expected.keys():
            raise TypeError(f"{fields.keys() ^ expected.keys()}")
        for name, value in fields.items():
            if type(value) is not kinds[expected[name]]:
                raise TypeError(name)
            setattr(self, name, value)


def encode(configuration: Configuration) -> bytes:
    """Encode every field as `name=value` and NUL. Raises ValueError for a text that holds NUL."""
    fields = [f"{name}={value}" for name, value in vars(configuration).items()]
    if any("\0" in field for field in fields):
        raise ValueError("A field holds NUL.")
    return "".join(f"{field}\0" for field in fields).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> Configuration:
    """Decode the result of `encode`. Raises ValueError or TypeError for any other bytes."""
    fields: dict[str, str | int] = {}
    for field in data.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, _, value = field.partition("=")
        is_number = Configuration.__annotations__.get(name) == "int"
        fields[name] = int(value) if is_number else value
    return Configuration(**fields)


# The calls of the C library, Rust's standard library and libkrun's devices, as in Firecracker's
# filter. A missing call is an error of the device that made it, not the end of the machine.
# Numbers are x86-64's, from the kernel's syscall_64.tbl.
ALLOWED: dict[str, dict[str, int]] = {
    "the guest and its devices": {  # first because they are the most frequent
        "ioctl": 16, "read": 0, "write": 1, "readv": 19, "writev": 20, "preadv": 295,
        "pwritev": 296, "preadv2": 327, "pwritev2": 328, "pread64": 17, "pwrite64": 18,
        "epoll_wait": 232, "epoll_pwait": 281, "epoll_pwait2": 441, "epoll_ctl": 233,
        "epoll_create1": 291, "eventfd2": 290, "futex": 202, "futex_waitv": 449, "poll": 7,
        "ppoll": 271, "select": 23, "pselect6": 270, "timerfd_create": 283,
        "timerfd_settime": 286, "timerfd_gettime": 287, "signalfd4": 289, "getrandom": 318,
    },
    "memory": {
        "mmap": 9, "munmap": 11, "mremap": 25, "mprotect": 10, "madvise": 28, "brk": 12,
        "membarrier": 324, "memfd_create": 319,
    },
    "threads and signals": {
        "exit": 60, "exit_group": 231, "set_robust_list": 273, "set_tid_address": 218,
        "rseq": 334, "arch_prctl": 158, "prctl": 157, "sched_yield": 24, "sched_getaffinity": 204,
        "sched_getparam": 143, "sched_getscheduler": 145, "gettid": 186, "getpid": 39,
        "getppid": 110, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108,
        "getcpu": 309, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "rt_sigsuspend": 130, "rt_sigtimedwait": 128, "rt_sigpending": 127, "sigaltstack": 131,
        "restart_syscall": 219, "pause": 34,
    },
    "time": {
        "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "nanosleep": 35,
        "gettimeofday": 96, "time": 201, "times": 100, "getrusage": 98, "sysinfo": 99,
        "uname": 63,
    },
    "files": {
        "open": 2, "openat": 257, "openat2": 437, "close": 3, "close_range": 436, "lseek": 8,
        "fstat": 5, "stat": 4, "lstat": 6, "newfstatat": 262, "statx": 332, "fstatfs": 138,
        "statfs": 137, "getdents64": 217, "readlink": 89, "readlinkat": 267, "access": 21,
        "faccessat": 269, "faccessat2": 439, "getcwd": 79, "chdir": 80, "fchdir": 81, "umask": 95,
        "dup": 32, "dup2": 33, "dup3": 292, "fcntl": 72, "flock": 73, "pipe2": 293,
        "ftruncate": 77, "fallocate": 285, "fadvise64": 221, "fsync": 74, "fdatasync": 75,
        "sync_file_range": 277, "copy_file_range": 326, "unlink": 87, "unlinkat": 263,
    },
    "its socket": {
        "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "connect": 42, "getsockname": 51,
        "getpeername": 52, "getsockopt": 55, "setsockopt": 54, "shutdown": 48, "sendto": 44,
        "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "sendmmsg": 307, "recvmmsg": 299,
    },
}  # fmt: skip
_PRLIMIT = 302


def runner_filter(pid: int) -> list[Instruction]:
    """Return the filter of process `pid`: ALLOWED, AF_UNIX sockets, threads, signals to itself."""
    numbers = (number for group in ALLOWED.values() for number in group.values())
    return [
        *seccomp.beginning(),
        *seccomp.every(numbers, seccomp.ALLOW),
        *seccomp.only_with(seccomp.SOCKET, 0, [seccomp.UNIX]),
        *seccomp.only_with(seccomp.SOCKETPAIR, 0, [seccomp.UNIX]),
        *seccomp.only_with(_PRLIMIT, 0, [0, pid]),
        *seccomp.only_threads(),
        *seccomp.only_itself(pid),
        *seccomp.ending(seccomp.EPERM),
    ]


def confine(configuration: Configuration) -> None:
    """Confine this process and change to the directory of its socket. Cannot be undone.

    It keeps a separate user, ALLOWED calls (others fail with EPERM), and a file system with
    /dev/kvm, that directory and its entries of /proc: no capabilities, network or queues of the
    host. Where the kernel does not allow namespaces (some containers), the rest still holds.
    Raises OSError when the user cannot be changed, and ProcessLookupError when the server is gone.
    """
    libc = ffi.dlopen(None)
    os.umask(0o022)  # the runner's user must be able to enter the directories made here
    namespaces.die_first()
    try:
        namespaces.enter(libc, user=configuration.uid < 0)
        _narrow_view(SmallRoot(libc, configuration.directory), configuration.directory)
    except OSError as error:
        os.write(2, f"waggle: the runner keeps the host's view: {error}\n".encode())
        os.fchdir(configuration.directory_fd)
    os.close(configuration.directory_fd)  # it would lead to the host's files
    group = configuration.kvm_gid
    namespaces.become(libc, configuration.uid, [group] if group >= 0 else [])
    namespaces.die_with(libc, configuration.parent)
    seccomp.install(libc, runner_filter(os.getpid()))


def _narrow_view(root: SmallRoot, directory: str) -> None:
    """Replace the root by a small read-only one with /dev/kvm, /proc and the socket's directory."""
    held = os.open(directory, os.O_PATH)  # the inherited one belongs to the host's namespace
    root.begin()
    root.directory("dev")
    root.device("/dev/kvm")
    root.directory("run")
    root.mount(f"/proc/self/fd/{held}", "run", None, BIND)
    os.close(held)
    root.processes()
    root.pivot()
    os.chdir("run")


FAILED = 3
SAYS = "waggle: the machine cannot start: "
_MAX_CONFIGURATION = 1 << 16


def configure(library: Libkrun, configuration: Configuration) -> None:
    """Describe the machine to libkrun. Raises KrunError, and OSError when KVM cannot be opened."""
    os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    most = library.max_vcpus()
    if configuration.cpus > most:
        raise KrunError(f"KVM gives a machine at most {most} processors here.")
    library.set_size(configuration.cpus, configuration.memory_mib)
    library.set_kernel(_path(configuration.kernel_fd), configuration.command_line)
    library.add_disk("kit", _path(configuration.kit_fd), read_only=True)
    library.add_disk("image", _path(configuration.image_fd), read_only=True)
    library.add_disk("scratch", _path(configuration.scratch_fd), read_only=False)
    library.add_disk("identity", _path(configuration.identity_fd), read_only=True)
    library.add_vsock(configuration.ssh_port, configuration.socket)
    library.set_console(_path(configuration.console_fd))
    library.add_ports(
        (configuration.agent_port, configuration.agent_fd),
        (configuration.renewal_port, configuration.renewal_fd),
    )


def _path(descriptor: int) -> str:
    """Return a path to the file that the server opened: libkrun takes only paths."""
    return f"/proc/self/fd/{descriptor}"


def main() -> int:
    """Run one machine; return only when that failed."""
    try:
        configuration = decode(sys.stdin.buffer.read(_MAX_CONFIGURATION))
        library = Libkrun(configuration.library)
        library.create()
        confine(configuration)
        os.umask(0o177)  # for the socket
        configure(library, configuration)
        library.start()
    except (KrunError, OSError, ValueError, TypeError) as error:
        os.write(2, f"{SAYS}{error}\n".encode("utf-8", "backslashreplace"))
    return FAILED
