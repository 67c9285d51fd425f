# SPDX-License-Identifier: Apache-2.0
"""Files through the agent: their bytes, parts, sizes and modes, whole and exact."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, Agent, running_agent

from waggle.infra.guest.protocol import ErrorCode
from waggle.infra.guest.protocol.fields import MAX_READ, MAX_WRITE
from waggle.infra.guest.protocol.files import FileData, Written

BIG = 10_000_000
SPARSE = 1 << 43
SMALL = 256 * 1024


def read(agent: Agent, path: Path, **params: object) -> FileData:
    result = agent.result("file_read", path=str(path), **params)
    assert set(result) == set(FileData.model_fields)
    return FileData.model_validate(result)


def write(agent: Agent, path: Path, data: bytes, **params: object) -> Written:
    text = base64.b64encode(data).decode()
    result = agent.result("file_write", path=str(path), data=text, **params)
    assert set(result) == set(Written.model_fields)
    return Written.model_validate(result)


def test_a_file_is_read_with_its_facts(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)))
    file.chmod(0o4751)
    os.utime(file, ns=(0, 1_234_567_890_123_456_789))
    got = read(agent, file)
    assert (got.data, got.end, got.size, got.mode) == (bytes(range(256)), True, 256, 0o4751)
    assert got.modified == 1_234_567_890_123_456_789


def test_times_before_1970_are_its_beginning(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, ns=(0, -5_000_000_001))
    assert read(agent, file).modified == 0


@pytest.mark.parametrize(
    "offset, length, data, end",
    [
        (0, 0, b"", False),
        (0, 5, b"01234", False),
        (5, 5, b"56789", True),
        (5, None, b"56789", True),
        (9, 1, b"9", True),
        (8, 1, b"8", False),
        (10, 5, b"", True),
        (10, 0, b"", True),
        (2**53 - 1, 5, b"", True),
    ],
)
def test_parts_are_exact(
    agent: Agent, tmp_path: Path, offset: int, length: int | None, data: bytes, end: bool
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    got = read(agent, tmp_path / "file", offset=offset, length=length)
    assert (got.data, got.end, got.size) == (data, end, 10)


def test_the_longest_part_has_its_full_length(agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(MAX_READ + 1)
    (tmp_path / "file").write_bytes(data)
    got = read(agent, tmp_path / "file", length=MAX_READ)
    assert (got.data, got.end) == (data[:MAX_READ], False)
    error = agent.error("file_read", path=str(tmp_path / "file"), length=MAX_READ + 1)
    assert error["code"] == ErrorCode.INVALID_PARAMS


def test_limits_of_the_policy_hold(agent_program: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    policy = {**ALL, "limits": {"read_bytes": 4, "write_bytes": 4}}
    with running_agent(agent_program, tmp_path, policy) as agent:
        got = read(agent, tmp_path / "file")
        assert (got.data, got.end) == (b"0123", False)
        error = agent.error("file_read", path=str(tmp_path / "file"), length=5)
        assert (error["code"], error["data"]) == (ErrorCode.TOO_LARGE, {"parameter": "length"})
        error = agent.error("file_write", path=str(tmp_path / "file"), data="MDEyMzQ=")
        assert (error["code"], error["data"]) == (ErrorCode.TOO_LARGE, {"parameter": "data"})
        assert (tmp_path / "file").read_bytes() == b"0123456789"
        assert write(agent, tmp_path / "file", b"abcd").written == 4


def test_ten_megabytes_both_ways(agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(BIG)
    for start in range(0, BIG, MAX_WRITE):
        part = data[start : start + MAX_WRITE]
        written = write(agent, tmp_path / "big", part, offset=start or None)
        assert (written.written, written.size) == (len(part), start + len(part))
    assert (tmp_path / "big").read_bytes() == data
    got = bytearray()
    while not (part := read(agent, tmp_path / "big", offset=len(got))).end:
        got += part.data
    assert got + part.data == data


def test_huge_sparse_files(agent: Agent, tmp_path: Path) -> None:
    os.truncate(_touched(tmp_path / "sparse"), SPARSE)
    got = read(agent, tmp_path / "sparse", offset=SPARSE - 3)
    assert (got.data, got.end, got.size) == (b"\0\0\0", True, SPARSE)
    assert write(agent, tmp_path / "sparse", b"end", offset=SPARSE).size == SPARSE + 3
    error = agent.error("file_write", path=str(tmp_path / "sparse"), data="YQ==", offset=2**53 - 1)
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "EFBIG"})


def test_writing_makes_and_empties_and_changes_parts(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert write(agent, file, b"0123456789").size == 10
    assert write(agent, file, b"abc").size == 3
    assert file.read_bytes() == b"abc"
    assert write(agent, file, b"XY", offset=1).size == 3
    assert write(agent, file, b"XY", offset=1).size == 3
    assert file.read_bytes() == b"aXY"
    assert write(agent, file, b"Z", offset=5).size == 6
    assert file.read_bytes() == b"aXY\0\0Z"
    assert write(agent, file, b"").size == 0


def test_a_part_of_a_file_that_is_not_there_is_refused(agent: Agent, tmp_path: Path) -> None:
    error = agent.error("file_write", path=str(tmp_path / "none"), data="YQ==", offset=0)
    assert error["code"] == ErrorCode.NOT_FOUND
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("mode", [0, 0o600, 0o644, 0o777])
def test_a_new_file_has_its_mode_and_an_old_one_keeps_it(
    agent: Agent, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "file"
    write(agent, file, b"1", mode=mode)
    assert stat.S_IMODE(file.stat().st_mode) == mode
    file.chmod(0o640)
    write(agent, file, b"2", mode=mode)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"2", 0o640)
    write(agent, tmp_path / "other", b"")
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644


@pytest.mark.parametrize("method", ["file_read", "file_write"])
def test_absent_places_are_not_found(agent: Agent, tmp_path: Path, method: str) -> None:
    params = {"data": ""} if method == "file_write" else {}
    error = agent.error(method, path=str(tmp_path / "none" / "file"), **params)
    assert (error["code"], error["data"]) == (ErrorCode.NOT_FOUND, {"errno": "ENOENT"})
    (tmp_path / "file").touch()
    error = agent.error(method, path=str(tmp_path / "file" / "below"), **params)
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ENOTDIR"})
    error = agent.error(method, path=str(tmp_path / ("x" * 256)), **params)
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ENAMETOOLONG"})


def test_names_beyond_ascii(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / 'ü\t"\\\n€'
    write(agent, file, b"data")
    assert file.read_bytes() == b"data"
    assert read(agent, file).data == b"data"


def test_a_program_that_runs_is_not_written(agent: Agent, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as running:
        try:
            _until_it_runs(running.pid, program)
            error = agent.error("file_write", path=str(program), data="")
        finally:
            running.kill()
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ETXTBSY"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", str(directory)],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("NOT TESTED: cannot mount a file system")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_is_told(agent: Agent, small_disk: Path) -> None:
    data = os.urandom(MAX_WRITE)
    assert write(agent, small_disk / "file", data).written == MAX_WRITE
    rest = write(agent, small_disk / "file", data, offset=MAX_WRITE)
    assert (rest.written, rest.size) == (SMALL - MAX_WRITE, SMALL)
    assert (small_disk / "file").read_bytes() == (data + data)[:SMALL]
    error = agent.error(
        "file_write",
        path=str(small_disk / "file"),
        data=base64.b64encode(data[rest.written :]).decode(),
        offset=SMALL,
    )
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ENOSPC"})


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _until_it_runs(pid: int, program: Path) -> None:
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}/exe").readlink() != program:
        assert time.monotonic() < until, "the program does not start"


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, -1, 1 << 40])
def test_no_file_gets_a_mode_that_gives_rights(agent: Agent, tmp_path: Path, mode: int) -> None:
    error = agent.error("file_write", path=str(tmp_path / "file"), data="", mode=mode)
    assert error["code"] == ErrorCode.INVALID_PARAMS
    assert not (tmp_path / "file").exists()
