# SPDX-License-Identifier: Apache-2.0
"""The confinement of a runner, just before it becomes a machine; called by `runner`.

A confined runner has a separate user, no capabilities, no network, none of the host's System V or
POSIX queues, only the system calls in ALLOWED (others fail with EPERM), and a file system with
/dev/kvm, its socket's directory and its entries of /proc. Where the kernel does not allow
namespaces (some containers), the rest still holds. `infra.shared.confined` has already limited
new privileges, core dumps and descriptors.
"""

from __future__ import annotations

import os

from waggle.infra.krun.configuration import Configuration
from waggle.infra.shared.confinement import namespaces, seccomp
from waggle.infra.shared.confinement._abi import ffi
from waggle.infra.shared.confinement.namespaces import BIND, SmallRoot

TYPE_CHECKING = False  # typing itself takes too long to import
if TYPE_CHECKING:
    from waggle.infra.shared.confinement.seccomp import Instruction

# The calls of the C library, Rust's standard library and libkrun's devices, as in Firecracker's
# filter. A missing call is an error of the device that made it, not the end of the machine.
# Numbers are x86-64's, from the kernel's syscall_64.tbl.
ALLOWED: dict[str, dict[str, int]] = {
    "the guest and its devices": {  # first because they are the most frequent
        "ioctl": 16,
        "read": 0,
        "write": 1,
        "readv": 19,
        "writev": 20,
        "preadv": 295,
        "pwritev": 296,
        "preadv2": 327,
        "pwritev2": 328,
        "pread64": 17,
        "pwrite64": 18,
        "epoll_wait": 232,
        "epoll_pwait": 281,
        "epoll_pwait2": 441,
        "epoll_ctl": 233,
        "epoll_create1": 291,
        "eventfd2": 290,
        "futex": 202,
        "futex_waitv": 449,
        "poll": 7,
        "ppoll": 271,
        "select": 23,
        "pselect6": 270,
        "timerfd_create": 283,
        "timerfd_settime": 286,
        "timerfd_gettime": 287,
        "signalfd4": 289,
        "getrandom": 318,
    },
    "memory": {
        "mmap": 9,
        "munmap": 11,
        "mremap": 25,
        "mprotect": 10,
        "madvise": 28,
        "brk": 12,
        "membarrier": 324,
        "memfd_create": 319,
    },
    "threads and signals": {
        "exit": 60,
        "exit_group": 231,
        "set_robust_list": 273,
        "set_tid_address": 218,
        "rseq": 334,
        "arch_prctl": 158,
        "prctl": 157,
        "sched_yield": 24,
        "sched_getaffinity": 204,
        "sched_getparam": 143,
        "sched_getscheduler": 145,
        "gettid": 186,
        "getpid": 39,
        "getppid": 110,
        "getuid": 102,
        "geteuid": 107,
        "getgid": 104,
        "getegid": 108,
        "getcpu": 309,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "rt_sigreturn": 15,
        "rt_sigsuspend": 130,
        "rt_sigtimedwait": 128,
        "rt_sigpending": 127,
        "sigaltstack": 131,
        "restart_syscall": 219,
        "pause": 34,
    },
    "time": {
        "clock_gettime": 228,
        "clock_getres": 229,
        "clock_nanosleep": 230,
        "nanosleep": 35,
        "gettimeofday": 96,
        "time": 201,
        "times": 100,
        "getrusage": 98,
        "sysinfo": 99,
        "uname": 63,
    },
    "files": {
        "open": 2,
        "openat": 257,
        "openat2": 437,
        "close": 3,
        "close_range": 436,
        "lseek": 8,
        "fstat": 5,
        "stat": 4,
        "lstat": 6,
        "newfstatat": 262,
        "statx": 332,
        "fstatfs": 138,
        "statfs": 137,
        "getdents64": 217,
        "readlink": 89,
        "readlinkat": 267,
        "access": 21,
        "faccessat": 269,
        "faccessat2": 439,
        "getcwd": 79,
        "chdir": 80,
        "fchdir": 81,
        "umask": 95,
        "dup": 32,
        "dup2": 33,
        "dup3": 292,
        "fcntl": 72,
        "flock": 73,
        "pipe2": 293,
        "ftruncate": 77,
        "fallocate": 285,
        "fadvise64": 221,
        "fsync": 74,
        "fdatasync": 75,
        "sync_file_range": 277,
        "copy_file_range": 326,
        "unlink": 87,
        "unlinkat": 263,
    },
    "its socket": {
        "bind": 49,
        "listen": 50,
        "accept": 43,
        "accept4": 288,
        "connect": 42,
        "getsockname": 51,
        "getpeername": 52,
        "getsockopt": 55,
        "setsockopt": 54,
        "shutdown": 48,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "sendmmsg": 307,
        "recvmmsg": 299,
    },
}
_PRLIMIT = 302


def runner_filter(pid: int) -> list[Instruction]:
    """Return the filter of process `pid`: ALLOWED, AF_UNIX sockets, threads, signals to itself."""
    numbers = (number for group in ALLOWED.values() for number in group.values())
    return [
        *seccomp.beginning(),
        *seccomp.each(numbers, seccomp.ALLOW),
        *seccomp.only_with(seccomp.SOCKET, 0, [seccomp.UNIX]),
        *seccomp.only_with(seccomp.SOCKETPAIR, 0, [seccomp.UNIX]),
        *seccomp.only_with(_PRLIMIT, 0, [0, pid]),
        *seccomp.only_threads(),
        *seccomp.only_itself(pid),
        *seccomp.ending(seccomp.EPERM),
    ]


def confine(configuration: Configuration) -> None:
    """Confine this process and change to the directory of its socket. Cannot be undone.

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
