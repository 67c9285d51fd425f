# SPDX-License-Identifier: Apache-2.0
"""A Python program in QEMU's place, as if QEMU had been taken over, reports what it can reach.

The starter runs it exactly as the hypervisor runs QEMU. util-linux, not the code under test, shows
what the kernel allows: where it forbids namespaces, the starter must say so and keep the rest of
its promises.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from waggle.infra.qemu.hypervisor import STARTER
from waggle.infra.qemu.starter import SOCKETS, VIEW, shown
from waggle.infra.shared.confined import filled_pipe, leash, python_argv

UID = 1_900_000_779
PROGRAM = os.path.realpath(shutil.which("python3", path="/usr/bin") or sys.executable)
"""A program that another user can start too, when the host's files stay in view."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can change its user")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="NOT TESTED: filters are x86's")
ESCAPED = """
import ctypes, json, os, socket, sys

def attempt(what):
    try:
        return repr(what())
    except OSError as error:
        return os.strerror(error.errno)

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(line for line in lines if line.startswith(name + ":")).split()[1:]

def write(path):
    open(path, "w").close()
    os.unlink(path)

def call(port):
    with socket.socket() as caller:
        caller.connect(("127.0.0.1", port))

given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "root": sorted(os.listdir("/")),
    "held": sorted(os.listdir("/proc/self/fd")),
    "files": {path: attempt(lambda path=path: open(path, "rb").read(1)) for path in given["files"]},
    "write": {path: attempt(lambda path=path: write(path + "/waggle-test"))
              for path in ("/", "/dev", "/tmp", "/usr/lib", "/lib", "/proc")},
    "families": {
        family: attempt(lambda family=family: socket.socket(family, socket.SOCK_DGRAM) and 1)
        for family in range(46)
    },
    "interfaces": [row.split(":")[0].strip() for row in open("/proc/self/net/dev").readlines()[2:]],
    "calls": attempt(lambda: call(given["port"])),
    "routes": len(open("/proc/self/net/route").readlines()) - 1,
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "signals": attempt(lambda: os.kill(given["parent"], 0)),
    "all": attempt(lambda: os.kill(-1, 0)),
    "itself": attempt(lambda: os.kill(os.getpid(), 0)),
    "fork": attempt(os.fork),
    "denied": {number: (libc.syscall(number, -1, -1, -1, -1, -1), ctypes.get_errno())
               for number in (101, 155, 165, 248, 272, 304, 308, 310, 321, 323, 425, 434, 438)},
    "ids": [status(name) for name in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "NoNewPrivs")],
    "oom": open("/proc/self/oom_score_adj").read().strip(),
    "namespaces": {name: os.readlink("/proc/self/ns/" + name)
                   for name in ("user", "mnt", "net", "ipc", "uts")},
}))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A listener on the host's loopback, which no confined process may reach."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield int(made.getsockname()[1])


def allowed(*namespaces: str) -> bool:
    """Return whether the kernel lets a process have these namespaces and mount in them."""
    mount = ["sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /tmp"]
    wanted = ["unshare", "--mount", "--net", "--ipc", "--uts", *namespaces]
    return subprocess.run([*wanted, *mount], capture_output=True, check=False).returncode == 0


def started(
    directory: Path,
    argv: list[str],
    *,
    uid: int = -1,
    door: int = -1,
    before: tuple[str, ...] = (),
    parent: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as the hypervisor runs QEMU."""
    plan: dict[str, object] = {
        "argv": argv,
        "directory": str(directory),
        "door": door,
        "uid": uid,
        "groups": [],
        "parent": parent or os.getpid(),
        "kvm": False,
    }
    with contextlib.ExitStack() as stack:
        return subprocess.run(
            [*before, *leash(python_argv(STARTER))],
            stdin=filled_pipe(marshal.dumps(plan), stack),
            capture_output=True,
            check=False,
            text=True,
            cwd="/",
            timeout=60,
            pass_fds=() if door < 0 else (door,),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )


def escaped(
    directory: Path, port: int, *, uid: int = -1, before: tuple[str, ...] = ()
) -> tuple[dict[str, object], str]:
    """Return the program's report and the starter's stderr."""
    secret = directory / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    files = ["/etc/passwd", "/etc/hostname", "/bin/sh", "/usr/bin/env", "/dev/kvm", "/dev/null"]
    given = {
        "files": [*files, str(secret), f"/proc/{os.getpid()}/status", __file__, "/sys/kernel/mm"],
        "port": port,
        "parent": os.getpid(),
    }
    argv = [PROGRAM, "-I", "-S", "-c", ESCAPED, json.dumps(given)]
    ended = started(directory, argv, uid=uid, before=before)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def check_view(report: dict[str, object]) -> None:
    assert set(cast("dict[str, str]", report["files"]).values()) == {"No such file or directory"}
    assert not {"etc/passwd", "home", "root", "tmp", "var", "sys", "run"} & set(
        cast("list[str]", report["root"])
    ) - {PROGRAM.split("/")[1]}
    written = cast("dict[str, str]", report["write"])
    assert set(written.values()) <= {
        *("Read-only file system", "No such file or directory", "Permission denied"),
    }
    assert report["interfaces"] == ["lo"]
    assert cast("int", report["routes"]) <= 0
    assert report["calls"] == "Network is unreachable"
    assert len(cast("list[str]", report["processes"])) <= 1
    host = {
        name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "net", "ipc", "uts")
    }
    namespaces = cast("dict[str, str]", report["namespaces"])
    assert all(namespaces[name] != host[name] for name in host)


def check_remains(report: dict[str, object], uid: int) -> None:
    """Check the promises that hold with and without namespaces."""
    uids, gids, groups, permitted, effective, no_new = cast("list[list[str]]", report["ids"])
    assert set(uids) == {str(uid)}
    assert permitted == effective == ["0000000000000000"]
    assert no_new == ["1"]
    if os.geteuid() == 0 and uid:
        assert set(gids) == {str(uid)}
        assert groups == []
    assert report["oom"] == "500"
    assert report["held"] == ["0", "1", "2", "3"]  # 3 is the listing's own descriptor
    if platform.machine() != "x86_64":
        return
    for what in ("signals", "all", "fork"):
        assert report[what] == "Operation not permitted", what
    assert report["itself"] == "None"
    families = cast("dict[str, str]", report["families"])
    opened = {int(family) for family, result in families.items() if result == "1"}
    assert opened == {socket.AF_UNIX, socket.AF_INET}
    assert families["38"] == families["40"] == "Operation not permitted"  # AF_ALG, AF_VSOCK
    denied = cast("dict[str, list[int]]", report["denied"])
    assert all(result == [-1, 1] for result in denied.values()), denied


@as_root
def test_an_escape_as_the_machines_user_reaches_nothing(tmp_path: Path, port: int) -> None:
    report, stderr = escaped(tmp_path, port, uid=UID)
    check_remains(report, UID)
    if allowed():
        assert stderr == ""
        check_view(report)
    else:
        assert stderr.startswith(VIEW)


def test_an_escape_from_a_server_that_is_not_root_reaches_nothing(
    tmp_path: Path, port: int
) -> None:
    """It has the server's user, in a user namespace: root here, when the tests run as root."""
    report, stderr = escaped(tmp_path, port)
    check_remains(report, os.getuid())
    if allowed("--user", "--map-root-user"):
        assert stderr == ""
        check_view(report)
        assert report["processes"] == []
    else:
        assert stderr.startswith(VIEW)


@as_root
def test_without_namespaces_it_says_so_and_confines_the_rest(tmp_path: Path, port: int) -> None:
    """As root of a container that lacks a capability."""
    for_all = ("setpriv", "--bounding-set", "-sys_admin")
    report, stderr = escaped(tmp_path, port, uid=UID, before=for_all)
    assert stderr.startswith(VIEW)
    assert "Operation not permitted" in stderr
    check_remains(report, UID)


def test_the_sockets_it_hands_over_lead_only_into_its_own_network(
    tmp_path: Path, port: int
) -> None:
    if not allowed(*(() if os.geteuid() == 0 else ("--user", "--map-root-user"))):
        pytest.skip("NOT TESTED: this kernel gives no network namespace")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        quick = [PROGRAM, "-I", "-S", "-c", "pass"]
        ended = started(tmp_path, quick, door=theirs.fileno())
        assert ended.returncode == 0, ended.stderr
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 2 * SOCKETS)
    assert len(descriptors) == SOCKETS
    for descriptor in descriptors:
        with socket.socket(fileno=descriptor) as made, pytest.raises(ConnectionRefusedError):
            made.connect(("127.0.0.1", port))


def test_without_its_server_it_does_not_start(tmp_path: Path) -> None:
    gone = os.getpid() + 1_000_000
    ended = started(tmp_path, [PROGRAM, "-c", "print('went on')"], parent=gone)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "The server is gone." in ended.stderr


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    ended = started(tmp_path, ["/usr/bin/no-such-qemu"])
    assert ended.returncode == 3
    assert "waggle: QEMU cannot start: " in ended.stderr


def test_the_hosts_mounts_stay_unchanged(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    started(tmp_path, [PROGRAM, "-c", "pass"])
    assert Path("/proc/self/mountinfo").read_text() == before
    assert shutil.which("unshare"), "util-linux says here what the kernel allows"


@pytest.mark.parametrize("place", ["/usr/bin/qemu-system-x86_64", "/qemu"])
def test_a_system_program_sees_only_libraries_and_firmware(place: str) -> None:
    paths = shown(place)
    assert paths[-1] == place
    assert not [path for path in paths[:-1] if path.startswith(("/home", "/root", "/var", "/run"))]
    assert "/etc" not in paths
    assert "/usr" not in paths


def test_a_program_elsewhere_sees_the_files_beside_it() -> None:
    paths = shown("/opt/qemu/bin/qemu-system-x86_64")
    assert {"/opt/qemu/lib", "/opt/qemu/share/qemu"} <= set(paths)
    assert "/opt/qemu" not in paths
