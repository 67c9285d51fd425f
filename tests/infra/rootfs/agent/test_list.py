# SPDX-License-Identifier: Apache-2.0
"""Directories through the agent: every entry once, whatever it is called, in bounded answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from tests.support.agent_program import Agent

from waggle.infra.guest.protocol import MAX_ANSWER, ErrorCode
from waggle.infra.guest.protocol.files import Entry, Kind, Listing

MANY = 5000


def listing(agent: Agent, path: Path, **params: object) -> Listing:
    result = agent.result("list_directory", path=str(path), **params)
    for entry in result["entries"]:
        assert set(entry) | {"raw_name"} == set(Entry.model_fields)
    return Listing.model_validate(result)


def all_of(agent: Agent, path: Path) -> list[Entry]:
    entries: list[Entry] = []
    while (part := listing(agent, path, offset=len(entries))).more:
        assert part.entries
        entries += part.entries
    return entries + list(part.entries)


def test_entries_with_their_facts(agent: Agent, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "file").write_bytes(b"12345")
    (there / "file").chmod(0o6751)
    os.utime(there / "file", ns=(0, 1_000_000_001))
    (there / "directory").mkdir(0o700)
    (there / "symlink").symlink_to("nowhere")
    os.mkfifo(there / "fifo")
    os.mknod(there / "device", 0o020600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(there / "socket"))
    found = listing(agent, there)
    entries = {entry.name: entry for entry in found.entries}
    assert {name: entry.kind for name, entry in entries.items()} == {
        "file": Kind.FILE,
        "directory": Kind.DIRECTORY,
        "symlink": Kind.SYMLINK,
        "fifo": Kind.FIFO,
        "device": Kind.DEVICE,
        "socket": Kind.SOCKET,
    }
    file = entries["file"]
    assert (file.size, file.mode, file.modified) == (5, 0o6751, 1_000_000_001)
    assert (entries["symlink"].size, entries["directory"].mode) == (len("nowhere"), 0o700)
    assert not found.more


def test_an_empty_directory(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for params in ({}, {"offset": 7}, {"limit": 1}):
        assert agent.result("list_directory", path=str(tmp_path / "empty"), **params) == {
            "entries": [],
            "more": False,
        }


def test_five_thousand_entries_each_once(agent: Agent, tmp_path: Path) -> None:
    wanted = {f"{number:04}" for number in range(MANY)}
    for name in wanted:
        (tmp_path / name).touch()
    (tmp_path / "policy-0.json").unlink()
    assert [len(listing(agent, tmp_path, offset=at).entries) for at in (0, 4000, 4999)] == [
        1000,
        1000,
        1,
    ]
    entries = all_of(agent, tmp_path)
    assert len(entries) == MANY
    assert {entry.name for entry in entries} == wanted


@pytest.mark.parametrize("limit, lengths", [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (4, [3])])
def test_limits_and_offsets(agent: Agent, tmp_path: Path, limit: int, lengths: list[int]) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in "abc":
        (there / name).touch()
    names: list[str] = []
    for length in lengths:
        part = listing(agent, there, offset=len(names), limit=limit)
        assert len(part.entries) == length
        names += [entry.name for entry in part.entries]
        assert part.more == (len(names) < 3)
    assert sorted(names) == ["a", "b", "c"]
    assert not listing(agent, there, offset=2**53 - 1).entries


def test_names_that_are_not_utf_8_come_raw_too(agent: Agent, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    raw = [b"a\xffb", b"\xc0\x80", b"\xed\xa0\x80", b"\xff" * 255, b"ok\xe2\x82"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(there) + b"/" + name)).touch()
    entries = listing(agent, there).entries
    assert sorted(entry.raw_name or b"" for entry in entries) == sorted(raw)
    assert {entry.raw_name: entry.name for entry in entries}[b"a\xffb"] == "a\ufffdb"
    assert all("\ufffd" in entry.name for entry in entries)


def test_names_with_control_characters_and_beyond_ascii(agent: Agent, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    names = {"\n", "\x01\x1f\x7f", '"\\', "€ü", "\U0001f41d", "\u2028", "..."}
    for name in names:
        (there / name).touch()
    entries = listing(agent, there).entries
    assert {entry.name for entry in entries} == names
    assert all(entry.raw_name is None for entry in entries)


@pytest.mark.parametrize("filler", [b"\xff", b"\x01", b"\xff\x01", b'"', b"x"])
def test_answers_stay_bounded_whatever_the_names(
    agent: Agent, tmp_path: Path, filler: bytes
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    long = (filler * 250)[:250]
    for number in range(1200):
        Path(os.fsdecode(os.fsencode(there) + b"/%04d." % number + long)).touch()
    numbers: list[str] = []
    is_over = False
    while not is_over:
        agent.request("list_directory", path=str(there), offset=len(numbers))
        while b'"result":' not in (line := agent.line()):
            pass  # it begins with other lines
        assert len(line) < MAX_ANSWER
        part = Listing.model_validate_json(line[line.index(b'"result":') + 9 : -1])
        assert len(part.entries) >= 100 or not part.more
        numbers += [entry.name[:4] for entry in part.entries]
        is_over = not part.more
    assert sorted(numbers) == [f"{number:04}" for number in range(1200)]


def test_what_is_no_directory(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "fifo"):
        error = agent.error("list_directory", path=str(tmp_path / name))
        assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ENOTDIR"})
    error = agent.error("list_directory", path=str(tmp_path / "none"))
    assert error["code"] == ErrorCode.NOT_FOUND
