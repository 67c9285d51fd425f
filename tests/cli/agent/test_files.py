# SPDX-License-Identifier: Apache-2.0
"""`waggle agent file_read` and `file_write`: whole files, in parts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from tests.cli.agent.ended import Run
from tests.support.agent_peer import Peer, Request, error, greeted, result

BIG = bytes(range(256)) * 5_000


class Disk:
    """One file of an agent."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> bytes:
        params = request["params"]
        self.requests.append(params)
        start = params.get("offset") or 0
        if request["method"] == "file_write":
            data = base64.b64decode(params["data"])
            if params.get("offset") is None:
                self.content.clear()
            self.content[start : start + len(data)] = data
            return result(request, {"written": len(data), "size": len(self.content)})
        length = min(params.get("length", 262_144), 262_144)
        piece = bytes(self.content[start : start + length])
        said = {
            "data": base64.b64encode(piece).decode(), "end": start + length >= len(self.content),
            "size": len(self.content), "mode": 0o644, "modified": 0,
        }  # fmt: skip
        return result(request, said)


@pytest.fixture
def disk(peer: Peer) -> Disk:
    made = Disk(BIG)
    peer.reply = greeted(made)
    return made


@pytest.mark.parametrize("size", [0, 5, len(BIG)])
def test_a_file_is_read_whole(size: int, disk: Disk, ask: Run, tmp_path: Path) -> None:
    del disk.content[size:]
    assert ask("file_read", "path=/a").out == BIG[:size]
    copy = tmp_path / "copy"
    ended = ask("file_read", "path=/a", "--output", copy)
    assert (ended.code, ended.out) == (0, b"")
    assert "Reading /a: done" in ended.err
    assert copy.read_bytes() == BIG[:size]


def test_a_part_is_read(disk: Disk, ask: Run, tmp_path: Path) -> None:
    assert ask("file_read", "path=/a", "offset=5", "length=3").out == BIG[5:8]
    assert ask("file_read", "path=/a", "offset=700000").out == BIG[700_000:]
    copy = tmp_path / "copy"
    ask("file_read", "path=/a", "length=3", "--output", copy)
    assert copy.read_bytes() == BIG[:3]
    said = ask("file_read", "path=/a", "offset=1", "--json").result
    assert base64.b64decode(said["data"]) == BIG[1 : 1 + 262_144]


def test_a_file_that_is_not_there_makes_none_here(peer: Peer, ask: Run, tmp_path: Path) -> None:
    peer.reply = greeted(lambda request: error(request, -32001, "no such file"))
    copy = tmp_path / "copy"
    assert ask("file_read", "path=/a", "--output", copy).code == 1
    assert not copy.exists()


@pytest.mark.parametrize("size", [0, 5, len(BIG)])
def test_a_file_is_written_whole(size: int, disk: Disk, ask: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG[:size])
    ended = ask("file_write", "path=/a", f"data=@{source}", "mode=0600")
    assert ended.code == 0
    assert disk.content == BIG[:size]
    assert "written: " in ended.text
    assert "Writing /a: done" in ended.err
    assert (disk.requests[0]["mode"], "offset" in disk.requests[0]) == (0o600, False)


def test_data_is_text_or_a_file_or_standard_input(
    disk: Disk, ask: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("file_write", "path=/a", "data=text=@")
    assert disk.content == b"text=@"
    source = tmp_path / "source"
    source.write_bytes(b"\0new")
    ask("file_write", "path=/a", f"data=@{source}", "offset=2")
    assert disk.content == b"te\0new"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    ask("file_write", "path=/a", "data=@-")
    assert disk.content == b"piped"


def test_too_much_for_one_request_is_refused(disk: Disk, ask: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    ended = ask("file_write", "path=/a", f"data=@{source}", "offset=2")
    assert ended.code == 1
    assert "has over 180,224 bytes" in ended.err
    assert disk.content == BIG


def test_a_file_that_cannot_be_read_or_written_here(disk: Disk, ask: Run, tmp_path: Path) -> None:
    for words in (
        ("file_write", "path=/a", f"data=@{tmp_path}/nothing"),
        ("file_write", "path=/a", f"data=@{tmp_path}"),
        ("file_read", "path=/a", "--output", f"{tmp_path}/no/file"),
        ("file_read", "path=/a", "length=1", "--output", str(tmp_path)),
    ):
        ended = ask(*words)
        assert ended.code == 2
        assert str(tmp_path) in ended.err
    assert disk.content == BIG


def test_a_guest_whose_disk_is_full_says_so(
    disk: Disk, peer: Peer, ask: Run, tmp_path: Path
) -> None:
    def reply(request: Request) -> bytes:
        if request["params"].get("offset", 0) > 500_000:
            return error(request, -32006, "no room", data={"errno": "ENOSPC"})
        return disk(request)

    peer.reply = greeted(reply)
    source = tmp_path / "source"
    source.write_bytes(BIG)
    ended = ask("file_write", "path=/a", f"data=@{source}")
    assert ended.code == 1
    assert "errno: ENOSPC" in ended.err
