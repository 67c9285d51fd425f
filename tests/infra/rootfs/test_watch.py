# SPDX-License-Identifier: Apache-2.0
"""Watching files: the kit's code (kit/guest/watch.c, batch.c), compiled and run on this host."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.kit_files import build_files

from waggle.domain.files.search import ALWAYS_SKIPPED, glob_expression

SECONDS = 10.0


class Watching:
    """The program under way, and the records that it has printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = b""

    @property
    def records(self) -> list[str]:
        return [os.fsdecode(record) for record in self.said.split(b"\0")[:-1]]

    def until(self, enough: Callable[[list[str]], bool]) -> list[str]:
        """Read until the records since the start suffice, and return them."""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        end = time.monotonic() + SECONDS
        while not enough(self.records):
            ready, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"nothing more after {self.records[-20:]}"
            piece = os.read(output, 1 << 16)
            assert piece, f"it ended after {self.records[-20:]}"
            self.said += piece
        return self.records

    def named(self, *names: str) -> list[str]:
        """Read until all of these have been named."""
        return self.until(lambda records: {*names} <= {*records})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty directory, which no other test has."""
    made = tmp_path / "tree"
    made.mkdir()
    return made


@contextmanager
def watching(files: Path, path: Path, *, skips: bool = True) -> Generator[Watching]:
    """Run it, from when it watches until it is killed."""
    options = ["-x", glob_expression(ALWAYS_SKIPPED)] if skips else []
    with subprocess.Popen(
        [str(files), "watch", *options, str(path)], stdout=subprocess.PIPE
    ) as process:
        try:
            watch = Watching(process)
            assert watch.until(bool) == [""]
            yield watch
        finally:
            process.kill()


def test_what_programs_change_is_named(files: Path, tree: Path) -> None:
    (tree / "a").mkdir()
    (tree / "a" / "old").write_text("1")
    with watching(files, tree) as watch:
        (tree / "new").write_text("1")
        (tree / "a" / "old").write_text("2")
        watch.named("new", "a/old")
        (tree / "a" / "old").unlink()
        (tree / "new").chmod(0o600)
        assert watch.until(lambda records: len(records) >= 5)[3:] == ["a/old", "new"]


def test_a_name_comes_once_in_a_batch(files: Path, tree: Path) -> None:
    with watching(files, tree) as watch:
        began = time.monotonic()
        for number in range(500):
            (tree / "log").write_text(str(number))
        (tree / "last").touch()
        records = watch.named("last")
        batches = 1 + (time.monotonic() - began) / 0.2
        assert 1 <= records.count("log") <= batches


def test_more_names_than_a_batch_has_are_an_empty_one(files: Path, tree: Path) -> None:
    with watching(files, tree) as watch:
        for number in range(1_000):
            (tree / f"f{number}").touch()
        records = watch.until(lambda records: "" in records[1:])
        assert len(records) <= 1_000


def test_long_names_do_not_overflow_a_batch(files: Path, tree: Path) -> None:
    deep = tree
    for _ in range(12):
        deep /= "d" * 250
    deep.mkdir(parents=True)
    with watching(files, tree) as watch:
        for number in range(90):
            (deep / f"{number}{'f' * 240}").touch()
        watch.until(lambda records: "" in records[1:])


def test_new_and_moved_directories_are_watched_by_their_names(files: Path, tree: Path) -> None:
    with watching(files, tree) as watch:
        (tree / "a" / "b").mkdir(parents=True)
        watch.named("a")
        (tree / "a" / "b" / "one").touch()
        watch.named("a/b/one")
        (tree / "a").rename(tree / "z")
        watch.named("z")
        (tree / "z" / "b" / "two").touch()
        watch.named("z/b/two")
        (tree / "z").rename(tree.parent / "outside")
        watch.until(lambda records: records.count("z") >= 2)
        (tree.parent / "outside" / "b" / "three").touch()
        (tree / "end").touch()
        assert not any("three" in record for record in watch.named("end"))


def test_what_a_search_skips_is_not_named(files: Path, tree: Path) -> None:
    (tree / ".git").mkdir()
    with watching(files, tree) as watch:
        (tree / ".git" / "index").touch()
        (tree / "node_modules" / "x").mkdir(parents=True)
        (tree / "node_modules" / "x" / "y").touch()
        (tree / "end").touch()
        assert watch.named("end") == ["", "end"]


def test_links_are_not_followed(files: Path, tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    (tree / "before").symlink_to(outside)
    with watching(files, tree) as watch:
        (tree / "after").symlink_to(outside)
        watch.named("after")
        (outside / "secret").touch()
        (tree / "end").touch()
        assert not any("secret" in record for record in watch.named("end"))


def test_the_path_itself_may_be_a_link(files: Path, tree: Path) -> None:
    link = tree.parent / "link"
    link.symlink_to(tree)
    with watching(files, link) as watch:
        (tree / "a").touch()
        watch.named("a")


def test_the_nearest_256_directories_are_watched(files: Path, tree: Path) -> None:
    for number in range(300):
        (tree / f"d{number:03}" / "below").mkdir(parents=True)
    with watching(files, tree) as watch:
        for number in range(300):
            (tree / f"d{number:03}" / "below" / "x").touch()
        (tree / "end").touch()
        assert not any("below/x" in record for record in watch.named("end"))
        for number in range(0, 300, 3):
            (tree / f"d{number:03}" / "near").touch()
        watch.until(lambda records: any("near" in record for record in records))


def test_a_file_is_watched_through_its_replacements(files: Path, tree: Path) -> None:
    file = tree / "file"
    file.write_text("1")
    with watching(files, file) as watch:
        (tree / "other").write_text("1")
        (tree / "other").rename(file)
        watch.named("file")
        file.unlink()
        watch.until(lambda records: records.count("file") == 2)
        file.write_text("3")
        records = watch.until(lambda records: records.count("file") == 3)
    assert {*records} == {"", "file"}


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_it_ends_when_its_path_is_gone(files: Path, tree: Path, how: str) -> None:
    with watching(files, tree) as watch:
        held = os.open(tree, os.O_RDONLY)  # no event says so while it is open
        try:
            if how == "removed":
                tree.rmdir()
            else:
                tree.rename(tree.parent / "elsewhere")
            if how == "replaced":
                tree.mkdir()
            assert watch.process.wait(SECONDS) == 0
        finally:
            os.close(held)
        assert watch.until(lambda records: len(records) == 2) == ["", ""]


def test_it_ends_when_nobody_reads(files: Path, tree: Path) -> None:
    with watching(files, tree) as watch:
        assert watch.process.stdout is not None
        watch.process.stdout.close()
        watch.process.stdout = None
        assert watch.process.wait(SECONDS) == 0


def test_an_overflow_is_an_empty_name_and_new_directories_are_found(
    files: Path, in_memory: Path
) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with watching(files, in_memory) as watch:
        watch.process.send_signal(signal.SIGSTOP)
        file = in_memory / "f"
        for _ in range(most // 2 + 10):
            file.touch()
            file.unlink()
        (in_memory / "new").mkdir()
        watch.process.send_signal(signal.SIGCONT)
        watch.until(lambda records: records.count("") == 2)
        (in_memory / "new" / "x").touch()
        watch.named("new/x")


@pytest.mark.parametrize(
    "path, why",
    [("missing", "No such file or directory"), ("file/x", "Not a directory")],
)
def test_a_path_that_cannot_be_opened_is_refused(
    files: Path, tree: Path, path: str, why: str
) -> None:
    (tree / "file").touch()
    done = subprocess.run(
        [str(files), "watch", str(tree / path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{why}\n")


@pytest.mark.parametrize("words", [[], ["/", "/"], ["-q", "/"]])
def test_wrong_usage_is_refused(files: Path, words: list[str]) -> None:
    done = subprocess.run([str(files), "watch", *words], capture_output=True, check=False)
    assert done.returncode == 2
