# SPDX-License-Identifier: Apache-2.0
"""A child process that confines itself as a runner does, and reports what it still has and sees.

`test_runner_confined` starts it with a plan as JSON in argv. All imports must come before the end
of the view of the host's files.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TypedDict

from waggle.infra.krun.runner import Configuration, confine
from waggle.infra.shared._abi import ffi

_LIBC = ffi.dlopen(None)
_NEW_NS, _RECURSIVE_PRIVATE = 0x20000, 16384 | 1 << 18
_SET_DUMPABLE, _SYS_ADMIN = 4, 21


class Plan(TypedDict):
    """The test's instructions.

    `become` is the user to be before confinement, -1 for none; `parent` 0 means the real parent.
    """

    directory: str
    uid: int
    kvm_gid: int
    become: int
    parent: int
    port: int
    hide_kvm: bool
    without_namespaces: bool
    umask: int
    wait: bool


class Report(TypedDict):
    """The remaining rights and view, as the process itself finds them."""

    uids: list[int]
    gids: list[int]
    groups: list[int]
    capabilities: dict[str, int]
    root: list[str]
    dev: list[str]
    here: list[str]
    above: list[list[str]]
    held: list[list[str]]
    processes: list[str]
    interfaces: list[str]
    namespaces: dict[str, str]
    writable: list[str]
    calls: str
    kvm: str
    socket: bool
    oom: int


def main(text: str) -> None:
    """Prepare, confine and report on stdout."""
    plan: Plan = json.loads(text)
    directory = os.open(plan["directory"], os.O_RDONLY | os.O_DIRECTORY)
    os.umask(plan["umask"])
    if plan["hide_kvm"]:
        _check(_LIBC.unshare(_NEW_NS))
        _check(_LIBC.mount(ffi.NULL, b"/", ffi.NULL, _RECURSIVE_PRIVATE, ffi.NULL))
        _check(_LIBC.mount(b"none", b"/dev", b"tmpfs", 0, ffi.NULL))
    if plan["become"] >= 0:
        _become(plan["become"])
    if plan["without_namespaces"]:
        _lose(_SYS_ADMIN)
    confine(_configuration(plan, directory))
    os.umask(0o177)
    os.write(1, json.dumps(report(plan["port"])).encode() + b"\n")
    if plan["wait"]:
        signal.pause()


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _check(_LIBC.prctl(_SET_DUMPABLE, 1, 0, 0, 0))  # as after the start of a program


def _lose(capability: int) -> None:
    """Drop one capability and keep the others, as a container's root."""
    left = _capabilities()["CapPrm"] & ~(1 << capability)
    halves = [left & 0xFFFFFFFF, left >> 32]
    sets = ffi.new("uint32_t[6]", [halves[0], halves[0], 0, halves[1], halves[1], 0])
    _check(_LIBC.capset(ffi.new("uint32_t[2]", [0x20080522, 0]), sets))


def _configuration(plan: Plan, directory: int) -> Configuration:
    fields: dict[str, str | int] = {
        name: "" if kind == "str" else 0 for name, kind in Configuration.__annotations__.items()
    }
    fields |= {
        "directory": plan["directory"],
        "directory_fd": directory,
        "uid": plan["uid"],
        "kvm_gid": plan["kvm_gid"],
        "parent": plan["parent"] or os.getppid(),
    }
    return Configuration(**fields)


def report(port: int) -> Report:
    """Report everything that the host might have left."""
    names = ("user", "mnt", "net", "ipc")
    return Report(
        uids=_ids("Uid"),
        gids=_ids("Gid"),
        groups=_ids("Groups"),
        capabilities=_capabilities(),
        root=_listed("/"),
        dev=_listed("/dev"),
        here=_listed("."),
        above=[_listed(".." + "/.." * depth) for depth in range(3)],
        held=directories_held(),
        processes=[name for name in _listed("/proc") if name.isdigit()],
        interfaces=_interfaces(),
        namespaces={name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in names},
        writable=[place for place in ("/", "/dev", "/proc", "/run", ".") if _can_write(place)],
        calls=_call(port),
        kvm=_open("/dev/kvm"),
        socket=_makes_socket(),
        oom=int(Path("/proc/self/oom_score_adj").read_text("utf-8")),
    )


def directories_held() -> list[list[str]]:
    """List the parent of every directory that is still open: the way out of a narrow view."""
    found: list[list[str]] = []
    for descriptor in range(3, 256):
        try:
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        except OSError:
            continue
        found.append(_listed(f"/proc/self/fd/{above}"))
        os.close(above)
    return found


def _ids(name: str) -> list[int]:
    """Return the real, effective and saved ids.

    They come from /proc, as the filter does not allow the calls that return them.
    """
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return [int(number) for number in line.split()[1:4]]


def _interfaces() -> list[str]:
    rows = Path("/proc/self/net/dev").read_text("utf-8").splitlines()[2:]
    return sorted(row.partition(":")[0].strip() for row in rows)


def _capabilities() -> dict[str, int]:
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    lines = [line.split() for line in status if line.startswith("Cap")]
    return {name.rstrip(":"): int(value, 16) for name, value in lines}


def _listed(path: str) -> list[str]:
    try:
        return sorted(entry.name for entry in Path(path).iterdir())
    except FileNotFoundError:
        return []


def _can_write(directory: str) -> bool:
    name = f"{directory}/waggle-test-{os.getpid()}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:
        return False
    Path(name).unlink()
    return True


def _call(port: int) -> str:
    """Return the outcome of a call to a listener on the host's loopback address."""
    try:
        with socket.socket() as caller:
            caller.connect(("127.0.0.1", port))
    except OSError as error:
        return error.strerror or "?"
    return "answered"


def _open(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.strerror or "?"
    return "opens"


def _makes_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("ssh")
    return Path("ssh").exists()


if __name__ == "__main__":
    main(sys.argv[1])
