# SPDX-License-Identifier: Apache-2.0
"""Reports from the outer machine, and their summary."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from lab.events import Ended, Progress
from lab.outer import Outcome
from lab.report import parse_junit, summary, unpack

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4">
<testcase classname="tests.contract.test_h" name="test_good[krun]" time="1"/>
<testcase classname="tests.contract.test_h" name="test_bad[krun]"><failure message="m">
def test_bad():
E   assert 1 == 2
</failure></testcase>
<testcase classname="tests.contract.test_h" name="test_never">
<error message="m">no kernel</error></testcase>
<testcase classname="tests.contract.test_h" name="test_skip">
<skipped message="only on Mondays"/></testcase>
</testsuite></testsuites>
"""
GREEN = '<testsuites><testsuite><testcase classname="t" name="a"/></testsuite></testsuites>'


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def outcome(*ended: Ended, problem: str = "") -> Outcome:
    return Outcome(Progress(up=True, ended=list(ended), over=not problem), problem)


def test_files_are_unpacked_from_a_larger_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(tar_of({"report/a.xml": b"<a/>", "report/a.log": b"x" * 9000}) + bytes(99_999))
    assert [path.name for path in unpack(disk, tmp_path)] == ["a.xml", "a.log"]
    assert (tmp_path / "a.log").read_bytes() == b"x" * 9000


def test_whole_files_are_unpacked_from_a_cut_disk(tmp_path: Path) -> None:
    whole = tar_of({"report/a.log": b"a", "report/b.log": b"b" * 100_000})
    (tmp_path / "disk").write_bytes(whole[:20_000])
    assert [path.name for path in unpack(tmp_path / "disk", tmp_path)] == ["a.log"]


@pytest.mark.parametrize("content", [b"", bytes(4096), b"junk" * 4096])
def test_a_disk_without_a_report_gives_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert unpack(tmp_path / "disk", tmp_path) == []


def test_no_file_is_written_outside_the_directory(tmp_path: Path) -> None:
    disk, target = tmp_path / "disk", tmp_path / "reports"
    target.mkdir()
    disk.write_bytes(tar_of({"../../escaped.log": b"1", "/etc/abs.log": b"2", "..": b"3"}))
    unpack(disk, target)
    assert sorted(path.name for path in target.iterdir()) == ["abs.log", "escaped.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "reports"]


def test_failures_and_errors_are_separate_from_skips() -> None:
    tests = parse_junit(JUNIT)
    assert tests.total == 4
    assert [failure.test.rpartition("::")[2] for failure in tests.failures] == [
        "test_bad[krun]",
        "test_never",
    ]
    assert "assert 1 == 2" in tests.failures[0].why
    assert [skip.why for skip in tests.skipped] == ["only on Mondays"]


def test_a_broken_report_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a JUnit report"):
        parse_junit(JUNIT[:200])


def test_a_run_without_failures_is_good(tmp_path: Path) -> None:
    (tmp_path / "contract.xml").write_text(GREEN)
    good, story = summary(outcome(Ended("contract", 0, 12.0)), ["contract"], tmp_path)
    assert good
    assert story == "contract: 12 s, 1 tests, 0 failed"


def test_every_inner_failure_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "contract.xml").write_text(JUNIT)
    good, story = summary(outcome(Ended("contract", 1, 12.0)), ["contract"], tmp_path)
    assert not good
    assert "FAILED tests.contract.test_h::test_bad[krun]" in story
    assert "assert 1 == 2" in story
    assert "FAILED tests.contract.test_h::test_never" in story
    assert "skipped tests.contract.test_h::test_skip: only on Mondays" in story


def test_a_bad_exit_code_without_failures_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "contract.xml").write_text(GREEN)
    (tmp_path / "contract.log").write_text("one\nINTERNALERROR\n")
    good, story = summary(outcome(Ended("contract", 3, 1.0)), ["contract"], tmp_path)
    assert not good
    assert "exit code 3" in story
    assert "INTERNALERROR" in story


@pytest.mark.parametrize("code, word", [(124, "deadline"), (5, "no test"), (1, "exit code 1")])
def test_a_job_without_tests_shows_its_last_lines(tmp_path: Path, code: int, word: str) -> None:
    (tmp_path / "shell.log").write_text("last words\n")
    good, story = summary(outcome(Ended("shell", code, 1.0)), ["shell"], tmp_path)
    assert not good
    assert word in story
    assert "last words" in story


def test_no_tests_at_all_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "contract.xml").write_text("<testsuites><testsuite/></testsuites>")
    assert not summary(outcome(Ended("contract", 0, 1.0)), ["contract"], tmp_path)[0]


def test_jobs_that_a_dead_machine_did_not_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "contract.xml").write_text(GREEN)
    ended = outcome(Ended("contract", 0, 1.0), problem="the outer machine ended by itself (0)")
    good, story = summary(ended, ["contract", "main-job"], tmp_path)
    assert not good
    assert "not run to the end: main-job" in story
    assert "The outer machine ended by itself (0)." in story
