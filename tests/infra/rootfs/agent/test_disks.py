# SPDX-License-Identifier: Apache-2.0
"""The file systems that the agent lists: each once, and what does not answer hides no other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.agent_places import SILENT, disk_image, mounting, needs_root, with_disk
from tests.support.agent_program import ALL, Agent, children_of, running_agent
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import MAX_ANSWER, METHODS, system

# And the program: it says how it speaks, reads what it is asked, and ends with the agent.
HEARS = """
import struct
if os.fork() == 0:
    libc.prctl(1, 9)
    os.closerange(0, 3)
    unique = struct.unpack_from("=IIQ", os.read(kept, 1 << 20))[2]
    os.write(kept, struct.pack("=IiQIIIIHHII36x", 80, 0, unique, 7, 31, 0, 0, 0, 0, 4096, 0))
    while True:
        os.read(kept, 1 << 20)
os.close(kept)
"""


def told(agent: Agent) -> system.DiskUsage:
    result = json.dumps(agent.result("get_disk_usage"))
    usage = METHODS["get_disk_usage"].result.model_validate_json(result)
    assert isinstance(usage, system.DiskUsage)
    return usage


def below(usage: system.DiskUsage, directory: Path) -> dict[str, system.Filesystem]:
    return {
        one.mount_point.removeprefix(f"{directory}/"): one
        for one in usage.filesystems
        if one.mount_point.startswith(f"{directory}/")
    }


def test_it_lists_what_is_mounted_here(agent: Agent) -> None:
    usage = told(agent)
    types = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    writable = {words[4] for words in mounts if words[-1].split(",")[0] == "rw"}
    assert "/" in {one.mount_point for one in usage.filesystems}
    for one in usage.filesystems:
        size = os.statvfs(one.mount_point)
        assert one.total_bytes == size.f_blocks * size.f_frsize > 0
        assert 0 <= one.used_bytes <= one.total_bytes
        assert one.inodes == size.f_files
        assert one.read_only == (one.mount_point not in writable)
        assert one.type in types
    assert not usage.truncated


@needs_root
def test_each_is_listed_once_with_its_shortest_name(agent_program: Path, tmp_path: Path) -> None:
    image, place = disk_image(tmp_path / "image"), tmp_path / "long-name"
    place.mkdir()
    code = f"mount('{place}', '{tmp_path}/short', '', BIND)"
    prefix = with_disk(image, place) + mounting(code)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        found = below(told(agent), tmp_path)
    assert list(found) == ["short"]
    disk = found["short"]
    assert disk.type == "ext4"
    assert disk.source.startswith("/dev/loop")
    assert 8 << 20 < disk.total_bytes <= 16 << 20
    assert disk.used_bytes < disk.available_bytes < disk.total_bytes
    assert disk.inodes_free == disk.inodes - 11
    assert not disk.read_only


@needs_root
def test_a_file_system_is_not_read_only_because_the_service_sees_it_so(
    agent_program: Path, tmp_path: Path
) -> None:
    """As systemd's `ProtectSystem=strict` mounts everything."""
    image, place = disk_image(tmp_path / "image"), tmp_path / "disk"
    place.mkdir()
    code = f"mount('none', '{place}', '', BIND | REMOUNT | READ_ONLY)"
    prefix = with_disk(image, place) + mounting(code)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert not below(told(agent), tmp_path)["disk"].read_only


@needs_root
@pytest.mark.parametrize(
    "name", ["a b", "tab\there", "line\nend", "back\\slash", "\\040", "\u00e9"]
)
def test_names_are_as_they_are(agent_program: Path, tmp_path: Path, name: str) -> None:
    code = (
        f"mount({name!r}, os.path.join({str(tmp_path)!r}, {name!r}), 'tmpfs', READ_ONLY, 'size=1m')"
    )
    with running_agent(agent_program, tmp_path, prefix=mounting(code)) as agent:
        found = below(told(agent), tmp_path)
    assert list(found) == [name]
    assert found[name].source == name
    assert found[name].total_bytes == 1 << 20
    assert found[name].read_only


@needs_root
def test_a_mount_over_another_hides_it(agent_program: Path, tmp_path: Path) -> None:
    code = f"""
for size in (1, 2, 3):
    mount(f"size-{{size}}", "{tmp_path}/here", "tmpfs", 0, f"size={{size}}m")
"""
    with running_agent(agent_program, tmp_path, prefix=mounting(code)) as agent:
        usage = told(agent)
    found = [one for one in usage.filesystems if one.mount_point == f"{tmp_path}/here"]
    assert [(one.source, one.total_bytes >> 20) for one in found] == [("size-3", 3)]


@needs_root
@pytest.mark.parametrize("count", [70, 300])
def test_many_are_cut(agent_program: Path, tmp_path: Path, count: int) -> None:
    code = f"""
for number in range({count}):
    mount("none", f"{tmp_path}/{{number}}", "tmpfs", 0, "size=1m")
"""
    with running_agent(agent_program, tmp_path, prefix=mounting(code)) as agent:
        usage = told(agent)
    assert len(usage.filesystems) == 64
    assert usage.truncated


@needs_root
def test_long_names_do_not_outgrow_the_line(agent_program: Path, tmp_path: Path) -> None:
    code = f"""
os.chdir("{tmp_path}")
for number in range(40):
    for depth in range(15):
        os.makedirs("\\1" * 250, exist_ok=True)
        os.chdir("\\1" * 250)
    mount("none", str(number), "tmpfs", 0, "size=1m")
    os.chdir("{tmp_path}")
"""
    with running_agent(agent_program, tmp_path, prefix=mounting(code)) as agent:
        line = agent.answer(agent.request("get_disk_usage"))
    usage = system.DiskUsage.model_validate_json(json.dumps(line["result"]))
    assert len(json.dumps(line, separators=(",", ":"))) < MAX_ANSWER * 0.9
    assert len(usage.filesystems) > 10
    assert usage.truncated


@needs_root
def test_what_does_not_answer_hides_no_other(agent_program: Path, tmp_path: Path) -> None:
    code = SILENT % (tmp_path / "silent") + f"mount('late', '{tmp_path}/late', 'tmpfs')"
    with running_agent(agent_program, tmp_path, prefix=mounting(code)) as agent:
        usage = told(agent)
        assert agent.result("ping") == {}
    assert list(below(usage, tmp_path)) == ["late"]
    assert usage.truncated


@needs_root
def test_what_does_not_answer_keeps_no_place_of_a_request(
    agent_program: Path, tmp_path: Path
) -> None:
    """What asks cannot be killed once the file system's program has read the question."""
    code = SILENT % (tmp_path / "silent") + HEARS
    policy = {**ALL, "limits": {"requests": 1}}
    with running_agent(agent_program, tmp_path, policy, prefix=mounting(code)) as agent:
        assert told(agent).truncated
        until_sync(lambda: len(children_of(agent.process.pid)) == 1, seconds=10)
        assert "entries" in agent.result("list_directory", path="/")
