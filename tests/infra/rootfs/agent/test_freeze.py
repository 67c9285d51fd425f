# SPDX-License-Identifier: Apache-2.0
"""Freezing and thawing, on a disk that only the agent sees: it is gone with the agent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from tests.support.agent_places import after, disk_image, needs_root, with_disk, with_disk_only
from tests.support.agent_program import SECONDS, Agent, build_agent, running_agent
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import ErrorCode

pytestmark = needs_root
LONG = 60
"""Seconds of a freezing: longer than a test."""
SHORT = 1
KEEPER = "waggle-freeze\n"
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
WRITE = "import os, sys; os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))"


def is_frozen(place: Path) -> bool:
    """Tell whether a file system is frozen: only then it cannot be frozen by others."""
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    finally:
        os.close(fd)
    return False


def seen(agent: Agent, point: Path) -> Path:
    """Return where this process finds what the agent sees at `point`."""
    return Path(f"/proc/{agent.process.pid}/root{point}")


def freeze(agent: Agent, *points: Path, timeout: int = LONG) -> int:
    params = {"mount_points": [str(point) for point in points], "timeout": timeout}
    return int(agent.result("freeze_filesystems", **params)["count"])


def thaw(agent: Agent) -> int:
    return int(agent.result("thaw_filesystems")["count"])


def keepers(agent: Agent) -> list[int]:
    """Return the processes that keep what the agent sees frozen."""
    wanted = Path(f"/proc/{agent.process.pid}/ns/mnt").readlink()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_keeper = (process / "comm").read_text() == KEEPER
            if is_keeper and (process / "ns/mnt").readlink() == wanted:
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended that is no child of this one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for_end(pid: int) -> None:
    until_sync(lambda: has_ended(pid))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.mkdir()
    return made


@pytest.fixture
def prefix(tmp_path: Path, disk: Path) -> Sequence[str]:
    return with_disk(disk_image(tmp_path / "image"), disk)


@pytest.fixture
def agent(
    agent_program: Path, tmp_path: Path, prefix: tuple[str, ...], disk: Path
) -> Generator[Agent]:
    with running_agent(agent_program, tmp_path, prefix=prefix) as running:
        assert running.result("ping") == {}  # it sees the disk now
        place = os.open(seen(running, disk), os.O_RDONLY)
        try:
            yield running
        finally:
            with contextlib.suppress(OSError):  # it is not frozen
                fcntl.ioctl(place, FITHAW, 0)  # else its loop device stays for ever
            os.close(place)


def test_writes_wait_until_it_is_thawed(agent: Agent, disk: Path) -> None:
    here = seen(agent, disk)
    assert not is_frozen(here)
    assert freeze(agent, disk) == 1
    assert is_frozen(here)
    write = subprocess.Popen([sys.executable, "-c", WRITE, here / "file"])
    until_sync(lambda: " D " in Path(f"/proc/{write.pid}/stat").read_text())
    assert not (here / "file").exists()
    assert thaw(agent) == 1
    assert write.wait(SECONDS) == 0
    assert (here / "file").exists()
    assert not is_frozen(here)


def test_again_changes_nothing(agent: Agent, disk: Path) -> None:
    assert [freeze(agent, disk), freeze(agent, disk), freeze(agent, disk, timeout=SHORT)] == [
        1,
        1,
        1,
    ]
    assert len(keepers(agent)) == 1
    assert [thaw(agent), thaw(agent)] == [1, 0]
    assert freeze(agent, disk) == 1
    assert is_frozen(seen(agent, disk))
    assert thaw(agent) == 1


def test_it_is_thawed_after_its_time(agent: Agent, disk: Path) -> None:
    began = time.monotonic()
    assert freeze(agent, disk, timeout=SHORT) == 1
    until_sync(lambda: not is_frozen(seen(agent, disk)))
    assert SHORT * 0.9 <= time.monotonic() - began < SHORT + 2
    assert thaw(agent) == 0


def test_it_is_thawed_when_the_agent_is_killed(agent: Agent, disk: Path) -> None:
    place = os.open(seen(agent, disk), os.O_RDONLY)
    try:
        freeze(agent, disk)
        (keeper,) = keepers(agent)
        agent.process.kill()
        wait_for_end(keeper)
        assert not is_frozen(Path(f"/proc/self/fd/{place}"))
    finally:
        os.close(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_is_thawed_when_the_machine_ends(agent: Agent, disk: Path, number: int) -> None:
    freeze(agent, disk)
    (keeper,) = keepers(agent)
    os.kill(keeper, number)
    wait_for_end(keeper)
    assert not is_frozen(seen(agent, disk))


def test_a_keeper_that_was_killed_is_made_good(agent: Agent, disk: Path) -> None:
    for _ in range(2):
        assert freeze(agent, disk) == 1
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGKILL)
        wait_for_end(keeper)
        assert is_frozen(seen(agent, disk))
        error = agent.error("freeze_filesystems", mount_points=[str(disk)])
        assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "EBUSY"})
        assert thaw(agent) == 1
        assert not is_frozen(seen(agent, disk))


def test_a_disk_on_a_file_of_another(agent_program: Path, tmp_path: Path, disk: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    code = f"""
import subprocess
subprocess.run(["mke2fs", "-q", "-F", "{disk}/image", "4M"], check=True)
subprocess.run(["mount", "-o", "loop", "{disk}/image", "{inner}"], check=True)
"""
    prefix = with_disk(disk_image(tmp_path / "image"), disk) + after(code, "--mount")
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        agent.result("ping")
        (seen(agent, inner) / "dirty").write_bytes(bytes(1 << 20))
        assert freeze(agent, disk, inner) == 2
        assert is_frozen(seen(agent, disk))
        assert is_frozen(seen(agent, inner))
        assert thaw(agent) == 2
        assert not is_frozen(seen(agent, disk))


def test_what_hangs_is_given_up(agent_program: Path, tmp_path: Path, disk: Path) -> None:
    # The inner disk is older than the only name that the outer one has left, so that the outer is
    # frozen first, and the inner can write no more.
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    code = f"""
import subprocess
subprocess.run(["mke2fs", "-q", "-F", "{disk}/image", "4M"], check=True)
subprocess.run(["mount", "-o", "loop", "{disk}/image", "{inner}"], check=True)
subprocess.run(["mount", "--bind", "{disk}", "{outer}"], check=True)
subprocess.run(["umount", "-l", "{disk}"], check=True)
"""
    prefix = with_disk(disk_image(tmp_path / "image"), disk) + after(code, "--mount")
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        agent.result("ping")
        (seen(agent, inner) / "dirty").write_bytes(bytes(1 << 20))
        params = {"mount_points": [str(outer), str(inner)], "timeout": SHORT}
        assert agent.error("freeze_filesystems", **params)["code"] == ErrorCode.TIMED_OUT
        assert not is_frozen(seen(agent, outer))
        assert not is_frozen(seen(agent, inner))
        assert not keepers(agent)


@pytest.fixture(scope="module")
def static_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_agent(tmp_path_factory.mktemp("static"), "-static", "-O1")


def test_without_a_list_it_is_all_that_can_be_frozen(static_agent: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    prefix = with_disk_only(root, disk_image(tmp_path / "image"))
    with running_agent(static_agent, tmp_path, prefix=prefix) as agent:
        assert agent.result("get_disk_usage")["filesystems"]
        here = seen(agent, Path("/disk"))
        assert agent.result("freeze_filesystems", timeout=LONG) == {"count": 1}
        assert is_frozen(here)
        assert thaw(agent) == 1
        # What a keeper left that was killed is thawed as well.
        assert agent.result("freeze_filesystems", timeout=LONG) == {"count": 1}
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGKILL)
        wait_for_end(keeper)
        assert is_frozen(here)
        assert thaw(agent) == 1
        assert not is_frozen(here)


@pytest.mark.parametrize(
    "points, code",
    [
        (["/nowhere"], ErrorCode.NOT_FOUND),
        (["/dev/../dev"], ErrorCode.NOT_FOUND),
        ([""], ErrorCode.NOT_FOUND),
        (["/proc"], ErrorCode.UNSUPPORTED),
        (["/x"] * 65, ErrorCode.INVALID_PARAMS),
        ([1], ErrorCode.INVALID_PARAMS),
    ],
)
def test_wrong_mount_points_freeze_nothing(
    agent: Agent, disk: Path, points: list[object], code: ErrorCode
) -> None:
    assert agent.error("freeze_filesystems", mount_points=[str(disk), *points])["code"] == code
    assert not is_frozen(seen(agent, disk))
    assert not keepers(agent)


def test_no_mount_points_are_none(agent: Agent, disk: Path) -> None:
    assert freeze(agent) == 0
    assert not is_frozen(seen(agent, disk))


def test_without_the_right_it_is_refused(
    agent_program: Path, tmp_path: Path, prefix: tuple[str, ...], disk: Path
) -> None:
    drop = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    with running_agent(agent_program, tmp_path, prefix=prefix + drop) as agent:
        error = agent.error("freeze_filesystems", mount_points=[str(disk)])
        assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "EPERM"})


def test_sync_writes_all(agent: Agent) -> None:
    assert agent.result("sync_filesystems") == {}
