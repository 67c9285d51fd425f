# SPDX-License-Identifier: Apache-2.0
"""A process that confined itself reports what it still is, has and sees.

`inside` is that process. util-linux, not the code under test, shows what the kernel allows: where
it forbids namespaces, the process must say so and keep the rest of its promises.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.infra.krun.inside import Plan, Report
from tests.support.waiting import until

from waggle.infra.shared.confined import identify, leash

UID, KVM_GID = 1_900_000_777, 1_900_000_778
COMPLAINT = "waggle: the runner keeps the host's view: "
ROOT = Path(__file__).parents[3]
RUN = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from tests.infra.krun.inside import main; main(sys.argv[1])"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can change its user")


@pytest.fixture
def directory() -> Iterator[Path]:
    """The socket's directory, in a place that another user can reach too."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        path = Path(place) / "machine.run"
        path.mkdir(mode=0o700)
        yield path


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def plan(directory: Path, uid: int = -1, become: int = -1, **others: object) -> Plan:
    made = Plan(
        directory=str(directory),
        uid=uid,
        kvm_gid=-1,
        become=become,
        parent=0,
        port=1,
        hide_kvm=False,
        without_namespaces=False,
        umask=0o022,
        wait=False,
    )
    user = max(uid, become)
    if user >= 0:
        os.chown(directory, user, user)
    return Plan(**{**made, **others})  # pyright: ignore[reportArgumentType] the keys of Plan


def argv(made: Plan) -> list[str]:
    path = (str(ROOT), *map(os.path.abspath, sys.path))
    return leash([sys.executable, "-I", "-S", "-c", RUN, json.dumps(made), *path])


def confined(made: Plan) -> tuple[Report, str]:
    """Return the process's report and its stderr."""
    ended = subprocess.run(argv(made), capture_output=True, check=False, text=True, cwd="/")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def allowed(*namespaces: str, uid: int = -1) -> bool:
    """Return whether the kernel lets a process have these namespaces and mount in them."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid >= 0 else []
    mount = ["sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /tmp"]
    ended = subprocess.run(
        [*become, "unshare", "--mount", "--net", "--ipc", *namespaces, *mount],
        capture_output=True,
        check=False,
    )
    return ended.returncode == 0


def host_namespaces() -> dict[str, str]:
    return {
        name: str(Path(f"/proc/self/ns/{name}").readlink())
        for name in ("user", "mnt", "net", "ipc")
    }


def check_view(report: Report) -> None:
    """Check that only KVM, the socket's directory and its own /proc entries are visible."""
    has_kvm = Path("/dev/kvm").exists()
    small = ["dev", "proc", "run"]
    assert report["root"] == small
    assert report["dev"] == (["kvm"] if has_kvm else [])
    assert report["here"] == []
    assert report["above"] == [small] * 3
    assert report["held"] == []
    assert len(report["processes"]) <= 1
    assert report["interfaces"] == ["lo"]
    host = host_namespaces()
    assert all(report["namespaces"][name] != host[name] for name in ("mnt", "net", "ipc"))
    assert report["writable"] == ["/run", "."]


def check_remains(report: Report) -> None:
    """Check the promises that hold with and without namespaces."""
    if platform.machine() == "x86_64":
        assert report["calls"] == "Operation not permitted"
    assert report["oom"] == 500
    effective = {name: report["capabilities"][name] for name in ("CapInh", "CapPrm", "CapEff")}
    assert set(effective.values()) == {0}
    assert report["capabilities"]["CapAmb"] == 0
    assert report["here"] == []
    assert report["socket"]


def check_said(stderr: str) -> None:
    """Check for one line that says what is not confined and why."""
    assert stderr.startswith(COMPLAINT)
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    assert len(stderr.strip()) > len(COMPLAINT)


@as_root
class TestAsRoot:
    """The server is root and gives every machine a user."""

    def test_it_becomes_its_user_and_sees_almost_nothing(
        self, directory: Path, listener: socket.socket
    ) -> None:
        port = listener.getsockname()[1]
        report, stderr = confined(plan(directory, UID, port=port))
        assert report["uids"] == report["gids"] == [UID] * 3
        assert report["groups"] == []
        check_remains(report)
        if allowed():
            assert stderr == ""
            check_view(report)
        else:
            check_said(stderr)
        assert (directory / "ssh").is_socket()
        assert (directory / "ssh").stat().st_uid == UID

    def test_its_only_group_is_kvms(self, directory: Path) -> None:
        report, _ = confined(plan(directory, UID, kvm_gid=KVM_GID))
        assert report["groups"] == [KVM_GID]
        assert report["gids"] == [UID] * 3

    def test_a_strict_umask_of_the_server_does_not_lock_it_out(self, directory: Path) -> None:
        usual, _ = confined(plan(directory, UID))
        (directory / "ssh").unlink()
        strict, stderr = confined(plan(directory, UID, umask=0o077))
        assert (strict["dev"], strict["kvm"]) == (usual["dev"], usual["kvm"])
        assert strict["above"] == usual["above"]
        assert (stderr == "") is allowed()

    def test_without_dev_kvm_the_rest_is_still_confined(self, directory: Path) -> None:
        if not allowed():
            pytest.skip("NOT TESTED: this kernel gives no mount namespace, not even to root")
        report, stderr = confined(plan(directory, UID, hide_kvm=True))
        assert stderr == ""
        assert report["root"] == ["dev", "proc", "run"]
        assert report["dev"] == []
        assert report["kvm"] == "No such file or directory"
        assert report["interfaces"] == ["lo"]

    def test_without_namespaces_it_says_so_and_confines_the_rest(self, directory: Path) -> None:
        """As root of a container that lacks a capability."""
        report, stderr = confined(plan(directory, UID, without_namespaces=True))
        check_said(stderr)
        assert "Operation not permitted" in stderr
        assert report["uids"] == report["gids"] == [UID] * 3
        assert report["namespaces"] == host_namespaces()
        check_remains(report)
        assert (directory / "ssh").is_socket()

    @pytest.mark.anyio
    @pytest.mark.parametrize("uid", [UID, -1])
    async def test_it_dies_with_the_server(self, directory: Path, uid: int) -> None:
        """The kernel clears the parent-death signal when the user changes; it must be set again."""
        made = json.dumps(argv(plan(directory, uid, wait=True)))
        code = "import json, subprocess, sys; subprocess.run(json.loads(sys.argv[1]))"
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, made), stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert await server.stdout.readline()
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        child = int(children)
        assert identify(child)
        server.send_signal(signal.SIGKILL)
        try:
            await until(lambda: identify(child) is None)
        finally:
            if identify(child):
                os.kill(child, signal.SIGKILL)
            await server.wait()


def check_unprivileged(made: Plan, uid: int) -> None:
    report, stderr = confined(made)
    assert report["uids"] == [uid] * 3
    check_remains(report)
    if allowed("--user", "--map-root-user", uid=made["become"]):
        assert stderr == ""
        assert report["namespaces"]["user"] != host_namespaces()["user"]
        check_view(report)
        assert report["processes"] == []
    else:
        check_said(stderr)
        assert report["uids"] == [uid] * 3
    assert (Path(made["directory"]) / "ssh").is_socket()


@as_root
def test_an_unprivileged_server_confines_with_a_user_namespace(
    directory: Path, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    check_unprivileged(plan(directory, become=UID, port=port), UID)


def test_the_current_user_can_be_confined(directory: Path, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    check_unprivileged(plan(directory, port=port), os.getuid())


def test_without_its_server_it_does_not_start(directory: Path) -> None:
    """The server may have died before the parent-death signal was set."""
    made = plan(directory, parent=os.getpid() + 1_000_000)
    ended = subprocess.run(argv(made), capture_output=True, check=False, text=True, cwd="/")
    assert ended.returncode != 0
    assert "ProcessLookupError: The server is gone." in ended.stderr
    assert ended.stdout == ""


def mounts() -> list[str]:
    """Return the mounts of this host, without disks that other tests mount at the same time."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if "/pytest-of-" not in line]


def test_the_hosts_mounts_stay_unchanged(directory: Path) -> None:
    before = mounts()
    confined(plan(directory))
    assert mounts() == before
    assert shutil.which("unshare"), "util-linux says here what the kernel allows"
