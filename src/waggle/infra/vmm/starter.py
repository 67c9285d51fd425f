# SPDX-License-Identifier: Apache-2.0
"""The process that starts a VMM with an API, apart from the host, and stays as its guard.

`process` starts it, and it calls `main`. It waits for the server's decisions, which may come long
after its start: a machine that comes up then does not wait for a Python. It enters namespaces for
mounts, network, queues, names and processes, and fills a small root with the machine's files at
constant paths and a /run in memory. Its child is the first process of the new ones and becomes the
VMM, either by the VMM's own jailer or by the confinement that QEMU and libkrun have, too. The guard
hands the child and its /run to the server before the child goes on, ends as the child ends, and
ends it when the server ends. It reads nothing that the VMM says.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys

from waggle.infra.shared import landlock, namespaces, seccomp
from waggle.infra.shared._abi import ffi
from waggle.infra.shared.namespaces import NO_SUID, PLAIN, SmallRoot

TYPE_CHECKING = False  # typing itself takes too long to import
if not TYPE_CHECKING:
    import _signal as signal
else:
    import signal
    from typing import NoReturn, TypedDict

    from waggle.infra.shared._abi import LibC
    from waggle.infra.shared.seccomp import Instruction

    class File(TypedDict):
        """A file of the machine, and where the VMM finds it."""

        name: str
        """Below the root, such as `kernel`."""
        path: str
        """On the host."""
        identity: tuple[int, int]
        """Device and inode of the file that the server opened."""
        read_only: bool

    class Plan(TypedDict):
        """The server's decisions: one message, with two descriptors.

        They are the memory, which becomes standard input, and where all complain.
        """

        program: str
        """The VMM: an absolute path without links."""
        identity: tuple[int, ...]
        """Device, inode and time of the last change of that file; as many as are known."""
        arguments: list[str]
        jailer: str
        """The VMM's own jailer, an absolute path; empty to be confined without."""
        jailer_identity: tuple[int, ...]
        id: str
        """The jail's: letters, digits and hyphens."""
        files: list[File]
        texts: dict[str, str]
        """Files to make below the root, by name."""
        directory: str
        """Any existing directory: the root is mounted over it, for this VMM only."""
        maps_file: bool
        """Whether the memory is a file of the host's, which the VMM opens anew to map it."""
        run_mib: int
        """How much /run may hold, which is in memory and the VMM's alone."""
        descriptors: int
        """How many the VMM may have open."""
        uid: int
        """Also the group; -1 to keep the server's user."""
        groups: list[int]
        parent: int
        """The server's process."""


FAILED = 3
SAYS = "waggle: the VMM cannot start: "
_PROGRAMS = "programs"
"""Where a jailer finds itself and the VMM, below its base directory and outside of the jail."""
_INPUT = "/proc/self/fd/0"
_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
"""There where the kernel knows the option."""
_TKILL = 200
_DEVICES = ("/dev/kvm", "/dev/urandom")
"""The second is for the guest."""
MAX_PLAN = 1 << 16
_SPARE_KIB = 256
_INODES = 64
"""Files in /run: sockets, and the parts of a snapshot."""


def main() -> int:
    """Start one VMM and guard it; return its status, or FAILED without one.

    Standard input is a socket of packets: the plan comes in over it; the child's number, its /run
    and a descriptor of its process go out; then another packet lets it become the VMM. 0 if the
    server does not need this guard.
    """
    try:
        report = _socket.socket(fileno=os.dup(0))
        data, rights, _, _ = report.recvmsg(MAX_PLAN, _socket.CMSG_SPACE(8))
        if not data:
            return 0
        [(_, _, both)] = rights
        memory, messages = (int.from_bytes(part, sys.byteorder) for part in (both[:4], both[4:]))
        for descriptor, place in ((memory, 0), (messages, 1), (messages, 2)):
            os.dup2(descriptor, place)
        os.close(memory)
        os.close(messages)
        return _guarded(report, marshal.loads(data))  # noqa: S302  (the server wrote it)
    except (OSError, ValueError, KeyError, EOFError) as error:
        _complain(error)
    return FAILED


def _complain(error: Exception) -> None:
    os.write(2, f"{SAYS}{error}\n".encode("utf-8", "backslashreplace"))


def _guarded(report: _socket.socket, plan: Plan) -> int:
    libc = ffi.dlopen(None)
    os.umask(0o022)  # the VMM's user must be able to enter the directories made here
    namespaces.die_first()
    namespaces.enter(libc, user=plan["uid"] < 0, processes=True)
    root = SmallRoot(libc, plan["directory"])
    inside = f"{os.path.basename(plan['program'])}/{plan['id']}/root/"  # noqa: PTH119
    run = _fill(root, inside if plan["jailer"] else "", plan)
    child = 0

    def kill(*_: object) -> None:
        if child:
            os.kill(child, signal.SIGKILL)
        else:
            os._exit(FAILED)

    signal.signal(signal.SIGTERM, kill)
    namespaces.die_with(libc, plan["parent"], signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    may_go, go = os.pipe()
    child = os.fork()
    if child == 0:
        report.close()  # the server hears only the guard
        os.close(go)
        if not os.read(may_go, 1):  # the guard was killed, and the server knows no VMM to kill
            os._exit(FAILED)
        _become_vmm(libc, root, inside, plan)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    held = (run, os.pidfd_open(child))
    rights = b"".join(one.to_bytes(4, sys.byteorder) for one in held)
    report.sendmsg([b"%d\n" % child], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    if report.recv(1):  # else the server has ended, or ends the child
        os.write(go, b".")
    report.close()
    for descriptor in (may_go, go, *held):
        os.close(descriptor)
    os.close(0)  # the memory is the VMM's alone
    return _until_ended(child)


def _until_ended(child: int) -> int:
    """Return the child's status; a signal that ended it ends this process, too."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status)


def _fill(root: SmallRoot, inside: str, plan: Plan) -> int:
    """Begin the root and return its /run, open. Opens everything first: it may be mounted over.

    A jail lies in memory and in this namespace only, as /run does, so nothing is left of them.
    """
    held: list[tuple[str, int, bool]] = []
    for file in plan["files"]:
        opened = _opened(file["name"], file["path"], file["identity"])
        held.append((f"{inside}{file['name']}", opened, file["read_only"]))
    program = _opened("The program", plan["program"], plan["identity"])
    if inside:  # the jailer copies the program there, and makes devices
        jailer = _opened("The jailer", plan["jailer"], plan["jailer_identity"])
        held += [(_shown(plan["program"]), program, True), (_shown(plan["jailer"]), jailer, True)]
        root.begin(os.fstat(program).st_size // 1024 + _SPARE_KIB, NO_SUID)
    else:
        held.append(("vmm", program, True))
        root.begin()
        root.directory("dev")
        for device in _DEVICES:
            root.device(device)
    for name, descriptor, read_only in held:
        root.bind(descriptor, name, file=True, read_only=read_only)
        os.close(descriptor)
    for name, text in plan["texts"].items():
        root.write(f"{inside}{name}", text)
    run = f"{inside}run"
    root.directory(run)
    size = f"size={plan['run_mib']}m,nr_inodes={_INODES},mode=0700{_small_pages()}"
    root.mount(None, run, "tmpfs", PLAIN, size)
    if plan["uid"] >= 0:
        os.chown(run, plan["uid"], plan["uid"])
    return os.open(run, os.O_RDONLY | os.O_DIRECTORY)


def _small_pages() -> str:
    """Forbid huge pages: memory beside what the VMM writes would look written, as zeros."""
    return ",huge=never" if os.access(_HUGE_PAGES, os.F_OK) else ""


def _opened(name: str, path: str, identity: tuple[int, ...]) -> int:
    """Open a file in this namespace: it must be what the server has opened or verified."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino, found.st_ctime_ns)[: len(identity)] != identity:
        raise FileNotFoundError(f"{name} was replaced.")
    return descriptor


def _shown(program: str) -> str:
    return f"{_PROGRAMS}/{os.path.basename(program)}"  # noqa: PTH119


def _become_vmm(libc: LibC, root: SmallRoot, inside: str, plan: Plan) -> NoReturn:
    """Become the VMM, or its jailer, which changes the root and the user."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.umask(0o077)
        if plan["jailer"]:
            root.processes(f"{inside}proc")
            # By no path of the host: another program may have that by now.
            os.execv(_shown(plan["jailer"]), jailer_argv(plan))  # noqa: S606  (no shell, and a program of the operator's)
        root.processes()
        root.pivot()
        namespaces.become(libc, plan["uid"], plan["groups"])
        namespaces.die_with(libc, 0)  # the guard is not of this namespace
        landlock.confine(libc, vmm_rights(plan))
        seccomp.install(libc, vmm_filter())
        os.execv("/vmm", [plan["program"], *plan["arguments"]])  # noqa: S606
    except (OSError, ValueError) as error:
        _complain(error)
    os._exit(FAILED)


def jailer_argv(plan: Plan) -> list[str]:
    """Return the command of the jailer. Pure."""
    uid = str(plan["uid"])
    return [
        *(plan["jailer"], "--id", plan["id"]),
        *("--exec-file", f"{plan['directory']}/{_shown(plan['program'])}"),
        *("--uid", uid, "--gid", uid, "--chroot-base-dir", plan["directory"]),
        *("--resource-limit", f"no-file={plan['descriptors']}", "--", *plan["arguments"]),
    ]


def vmm_rights(plan: Plan) -> dict[str, int]:
    """Return what a VMM that has no jailer may do with which files of its root, see `landlock`."""
    both = landlock.READ | landlock.WRITE
    rights = {"/": landlock.LIST, "/proc": landlock.READ, "/run": landlock.FILL}
    rights["/vmm"] = landlock.READ | landlock.EXECUTE
    for name in filter(_is_there, _DEVICES):
        rights[name] = both | landlock.DEVICE
    for file in plan["files"]:
        only = file["read_only"]
        rights[f"/{file['name']}"] = landlock.READ if only else both | landlock.TRUNCATE
    for name in plan["texts"]:
        rights[f"/{name}"] = landlock.READ
    if plan["maps_file"]:
        rights[_INPUT] = landlock.READ
    return rights


def _is_there(path: str) -> bool:
    return os.access(path, os.F_OK)


def vmm_filter() -> list[Instruction]:
    """Return the filter of a VMM that has no jailer; it adds its own, which are stricter.

    It may signal any process: it sees only itself and its threads.
    """
    numbers = {number for group in seccomp.DENIED.values() for number in group}
    return [
        *seccomp.beginning(),
        *seccomp.every(sorted(numbers - {_TKILL}), seccomp.EPERM),
        *seccomp.only_with(seccomp.SOCKET, 0, [seccomp.UNIX]),
        *seccomp.only_with(seccomp.SOCKETPAIR, 0, [seccomp.UNIX]),
        *seccomp.only_threads(),
        *seccomp.ending(seccomp.ALLOW),
    ]
