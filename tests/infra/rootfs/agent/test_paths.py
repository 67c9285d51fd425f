# SPDX-License-Identifier: Apache-2.0
"""Paths that lead out of what the policy allows: none gives away a byte, or is written to."""

from __future__ import annotations

import base64
import itertools
import os
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, Agent, running_agent
from tests.support.programs import program

from waggle.infra.guest.protocol import ErrorCode

SECRET = b"nobody may know this"
READS = 500
REFUSED = {ErrorCode.DENIED, ErrorCode.FAILED, ErrorCode.NOT_FOUND}


@dataclass(frozen=True, slots=True)
class Tree:
    """Directories: one that may be read and written, in it one that is denied; one outside."""

    agent: Agent
    inside: Path
    denied: Path
    outside: Path

    def read(self, path: Path | str) -> object:
        """Return what is read, or the code of the error."""
        answer = self.agent.answer(self.agent.request("file_read", path=str(path)))
        if "error" in answer:
            return answer["error"]["code"]
        return base64.b64decode(answer["result"]["data"])

    def write(self, path: Path | str, **params: object) -> object:
        """Return how much was written, or the code of the error."""
        data = base64.b64encode(b"overwritten").decode()
        answer = self.agent.answer(
            self.agent.request("file_write", path=str(path), data=data, **params)
        )
        return answer["error"]["code"] if "error" in answer else answer["result"]["written"]


@pytest.fixture
def tree(agent_program: Path, tmp_path: Path) -> Generator[Tree]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    denied = inside / "denied"
    outside.mkdir()
    denied.mkdir(parents=True)
    (outside / "secret").write_bytes(SECRET)
    (denied / "secret").write_bytes(SECRET)
    (inside / "file").write_bytes(b"known")
    places = {"allow": [str(inside)], "deny": [str(denied)]}
    with running_agent(agent_program, tmp_path, {**ALL, "read": places, "write": places}) as agent:
        yield Tree(agent, inside, denied, outside)
    assert (outside / "secret").read_bytes() == (denied / "secret").read_bytes() == SECRET
    assert {entry.name for entry in outside.iterdir()} == {"secret"}


@pytest.mark.parametrize("target", ["absolute", "relative", "second", "directory", "denied", "up"])
def test_links_that_lead_out_are_not_followed(tree: Tree, target: str) -> None:
    link = tree.inside / "link"
    match target:
        case "absolute":
            link.symlink_to(tree.outside / "secret")
        case "relative":
            link.symlink_to("../outside/secret")
        case "second":
            (tree.inside / "first").symlink_to("../outside/secret")
            link.symlink_to("first")
        case "directory":
            (tree.inside / "first").symlink_to("../outside")
            link = tree.inside / "first" / "secret"
        case "denied":
            link.symlink_to("denied/secret")
        case _:
            (tree.inside / "first").symlink_to("..")
            link = tree.inside / "first" / "outside" / "secret"
    assert tree.read(link) == ErrorCode.DENIED
    assert tree.write(link) in REFUSED
    assert tree.write(link, offset=0) in REFUSED


def test_links_to_what_is_not_there_make_nothing(tree: Tree) -> None:
    (tree.inside / "link").symlink_to("../outside/new")
    assert tree.write(tree.inside / "link") in REFUSED
    (tree.inside / "directory").symlink_to("../outside")
    assert tree.write(tree.inside / "directory" / "new") == ErrorCode.DENIED


def test_links_that_stay_inside_are_followed_for_reading_alone(tree: Tree) -> None:
    (tree.inside / "link").symlink_to("file")
    assert tree.read(tree.inside / "link") == b"known"
    assert tree.write(tree.inside / "link") == ErrorCode.FAILED
    assert (tree.inside / "file").read_bytes() == b"known"


def test_loops_of_links_end(tree: Tree) -> None:
    (tree.inside / "a").symlink_to("b")
    (tree.inside / "b").symlink_to("a")
    assert tree.read(tree.inside / "a") == ErrorCode.FAILED


@pytest.mark.parametrize("magic", ["root", "cwd", "fd/0", "exe"])
def test_magic_links_are_not_followed(agent: Agent, tmp_path: Path, magic: str) -> None:
    (tmp_path / "link").symlink_to(f"/proc/self/{magic}")
    for path in (f"/proc/self/{magic}", str(tmp_path / "link")):
        assert agent.error("file_read", path=path)["code"] in REFUSED
    assert agent.error("file_read", path="/proc/self/root/etc/passwd")["code"] in REFUSED


@pytest.mark.parametrize("path", ["{}/../outside/secret", "{}/..", "/..", "{}/file/.."])
def test_dots_are_refused(tree: Tree, path: str) -> None:
    error = tree.agent.error("file_read", path=path.format(tree.inside))
    assert (error["code"], error["data"]) == (ErrorCode.INVALID_PARAMS, {"parameter": "path"})


def test_names_with_dots_and_needless_slashes_are_no_tricks(tree: Tree) -> None:
    (tree.inside / "..name").write_bytes(b"1")
    (tree.inside / "...").write_bytes(b"2")
    assert tree.read(tree.inside / "..name") == b"1"
    assert tree.read(tree.inside / "...") == b"2"
    assert tree.read(f"//{tree.inside}//.//file") == b"known"
    assert tree.read(f"{tree.inside}/./denied/./secret") == ErrorCode.DENIED
    assert tree.read(f"{tree.inside}//denied//secret") == ErrorCode.DENIED
    assert tree.read(f"{tree.inside}/file/") == ErrorCode.INVALID_PARAMS


def test_a_neighbour_with_a_longer_name_is_not_inside(tree: Tree) -> None:
    neighbour = Path(f"{tree.inside}2")
    neighbour.mkdir()
    (neighbour / "file").write_bytes(SECRET)
    assert tree.read(neighbour / "file") == ErrorCode.DENIED


def test_what_is_denied_does_not_tell_what_is_there(tree: Tree) -> None:
    for directory in (tree.denied, tree.outside):
        there = tree.agent.error("file_read", path=str(directory / "secret"))
        absent = tree.agent.error("file_read", path=str(directory / "absent"))
        assert there["message"].replace("secret", "absent") == absent["message"]
        assert (there["code"], there["data"]) == (absent["code"], absent["data"])
    (tree.inside / "link").symlink_to("../outside/secret")
    (tree.inside / "other").symlink_to("../outside/absent")
    assert tree.read(tree.inside / "link") == tree.read(tree.inside / "other") == ErrorCode.DENIED


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory"])
def test_only_regular_files_are_opened(tree: Tree, kind: str) -> None:
    path = tree.inside / kind
    code = ErrorCode.DENIED
    with socket.socket(socket.AF_UNIX) as bound:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "socket":
                bound.bind(str(path))
            case "device":
                os.mknod(path, 0o020666, os.makedev(1, 3))
            case _:
                path.mkdir()
                code = ErrorCode.FAILED
        assert tree.read(path) == code
        assert tree.write(path) == code
        assert tree.write(path, offset=0) == code


@pytest.mark.parametrize(
    "path", ["/proc/version", "/proc/sys/kernel/hostname", "/sys/kernel/notes", "/dev/zero"]
)
def test_the_kernels_own_files_are_refused_in_any_case(agent: Agent, path: str) -> None:
    assert agent.error("file_read", path=path)["code"] == ErrorCode.DENIED
    assert agent.error("file_write", path=path, data="")["code"] == ErrorCode.DENIED
    assert agent.error("list_directory", path="/proc")["code"] == ErrorCode.DENIED


def test_a_second_name_of_a_secret_is_refused(tree: Tree) -> None:
    os.link(tree.outside / "secret", tree.inside / "name")
    assert tree.read(tree.inside / "name") == ErrorCode.DENIED
    assert tree.write(tree.inside / "name") == ErrorCode.DENIED
    assert tree.write(tree.inside / "name", offset=0) == ErrorCode.DENIED


def test_a_second_name_of_what_is_denied_is_refused(agent_program: Path, tmp_path: Path) -> None:
    """Also where all the rest is allowed."""
    (tmp_path / "denied").mkdir()
    (tmp_path / "denied" / "secret").write_bytes(b"secret")
    (tmp_path / "second").hardlink_to(tmp_path / "denied" / "secret")
    places = {"allow": ["/"], "deny": [str(tmp_path / "denied")]}
    policy = {**ALL, "read": places, "write": places}
    with running_agent(agent_program, tmp_path, ALL, policy) as agent:
        for method, params in (("file_read", {}), ("file_write", {"data": ""})):
            error = agent.error(method, path=str(tmp_path / "second"), **params)
            assert error["code"] == ErrorCode.DENIED
    assert (tmp_path / "second").read_bytes() == b"secret"


def test_one_file_may_be_allowed(agent_program: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    only = {"allow": [str(tmp_path / "one")], "deny": list[str]()}
    with running_agent(agent_program, tmp_path, {**ALL, "read": only, "write": only}) as agent:
        assert agent.result("file_read", path=str(tmp_path / "one"))["data"] == "b25l"
        assert agent.result("file_write", path=str(tmp_path / "one"), data="")["size"] == 0
        assert agent.error("file_read", path=str(tmp_path / "two"))["code"] == ErrorCode.DENIED
        assert agent.error("list_directory", path=str(tmp_path))["code"] == ErrorCode.DENIED


def test_swapping_links_and_directories_meanwhile_gives_nothing_away(tree: Tree) -> None:
    place, aside = tree.inside / "place", tree.inside / "aside"
    place.mkdir()
    (place / "secret").write_bytes(b"known")
    with Swapping(place, aside):
        seen = {tree.read(place / "secret") for _ in range(READS)}
    assert seen <= {b"known", *REFUSED, ErrorCode.BUSY}
    assert b"known" in seen, "the race was never won by the good one: nothing was tested"
    assert len(seen) > 1, "the race was never won by the bad one: nothing was tested"


def test_swapping_links_and_directories_meanwhile_lets_nothing_be_written(tree: Tree) -> None:
    place, aside = tree.inside / "place", tree.inside / "aside"
    place.mkdir()
    with Swapping(place, aside):
        names = itertools.cycle(["secret", "new"])
        seen = {tree.write(place / next(names)) for _ in range(READS)}
    assert len("overwritten") in seen
    assert len(seen) > 1, "the race was never won by the bad one: nothing was tested"


class Swapping:
    """While it is entered, `place` is by turns itself and a link to the directory outside."""

    def __init__(self, place: Path, aside: Path) -> None:
        self._place, self._aside = place, aside
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _swap(self) -> None:
        while not self._is_over.is_set():
            self._place.rename(self._aside)
            self._place.symlink_to("../outside")
            self._place.unlink()
            self._aside.rename(self._place)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can mount")
def test_without_proc_nothing_is_opened(agent_program_as_shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    hidden = 'mount -t tmpfs none /proc && mkdir -p /proc/self/fd && exec "$@"'
    prefix = (program("unshare"), "--mount", "sh", "-c", hidden, "sh")
    with running_agent(agent_program_as_shipped, tmp_path, prefix=prefix) as agent:
        for method, params in (("file_read", {}), ("file_write", {"data": ""})):
            error = agent.error(method, path=str(tmp_path / "file"), **params)
            assert error["code"] == ErrorCode.UNSUPPORTED
        assert agent.error("list_directory", path="/")["code"] == ErrorCode.UNSUPPORTED
        late = agent.result("exec_command", argv=["/bin/sh", "-c", "sleep 60"], timeout=1)
        assert late["status"] == "timed_out"
