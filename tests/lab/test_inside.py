# SPDX-License-Identifier: Apache-2.0
"""The program that runs the jobs inside, with files of this machine for its devices."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lab.events import Beat, Ended, Line, Over, Started, Up, parse

LAB = Path(__file__).parents[2] / "lab"


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("lab_inside_run", LAB / "inside/run.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(module, "LAB", tmp_path)
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.setattr(module, "REPORT", tmp_path / "report")
    monkeypatch.setattr(module, "REPORT_DISK", tmp_path / "disk")
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return module


def run(
    inside: Any, monkeypatch: pytest.MonkeyPatch, *jobs: tuple[str | list[str], float]
) -> list[object]:
    """Run jobs: commands, or lists of what pytest is given. Returns their events."""
    port = io.BytesIO()
    monkeypatch.setattr(port, "close", lambda: None)

    def open_port(_name: str) -> io.BytesIO:
        return port

    monkeypatch.setattr(inside, "open_port", open_port)
    for name, value in (("HOME", "/root"), ("LC_ALL", "C"), ("PYTHONUTF8", "1")):
        monkeypatch.setenv(name, value)
    described = [
        {
            "name": f"job{number}",
            "command": "" if isinstance(job, list) else job,
            "tests": job if isinstance(job, list) else [],
            "seconds": seconds,
            "environment": {"A": "b"},
        }
        for number, (job, seconds) in enumerate(jobs)
    ]
    (inside.LAB / "jobs.json").write_text(json.dumps(described))
    assert inside.main() == 0
    events = [parse(line) for line in port.getvalue().splitlines()]
    assert Beat() in events
    return [event for event in events if event != Beat()]


def members(group: int) -> list[str]:
    """Return the live processes of a group."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(path.parent.name)
    return found


def test_jobs_run_in_order_even_after_a_failure(
    inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = run(inside, monkeypatch, ("echo $A; printf cut; exit 3", 60), ("echo two >&2", 60))
    kinds = [type(event) for event in events]
    assert kinds == [Up, Started, Line, Line, Ended, Started, Line, Ended, Over]
    assert [event.text for event in events if isinstance(event, Line)] == ["b", "cut", "two"]
    assert [event.code for event in events if isinstance(event, Ended)] == [3, 0]


def test_the_report_disk_holds_all_output(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run(inside, monkeypatch, ("seq 1 5000", 60), ("touch $A", 60))
    with tarfile.open(inside.REPORT_DISK) as archive:
        log = archive.extractfile("report/job0.log")
        assert log is not None
        assert log.read() == b"".join(b"%d\n" % number for number in range(1, 5001))
        assert "report/job1.log" in archive.getnames()


@pytest.mark.parametrize("command", ["sleep 1000", "trap '' INT; while :; do sleep 0.05; done"])
def test_a_late_job_ends_with_all_its_children(
    inside: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    events = run(inside, monkeypatch, (f"echo $$; {command}", 0.5))
    (line,) = (event for event in events if isinstance(event, Line))
    assert [event.code for event in events if isinstance(event, Ended)] == [124]
    assert members(int(line.text)) == []


def test_a_job_ends_although_a_daemon_holds_its_output(
    inside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = run(inside, monkeypatch, ("sleep 1000 & echo $!", 60))
    (line,) = (event for event in events if isinstance(event, Line))
    os.kill(int(line.text), 9)
    assert [event.code for event in events if isinstance(event, Ended)] == [0]


OWN = ("-q", "-p", "no:cacheprovider", "-c", "pytest.ini")


@pytest.fixture
def project(inside: Any) -> Path:
    """A project whose tests say where they run, and which warns of nothing."""
    root: Path = inside.PROJECT
    (root / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (root / "test_own.py").write_text(
        textwrap.dedent("""
        import os, sys, time

        def test_where_it_runs():
            assert (os.environ["A"], os.getcwd()) == ("b", os.path.dirname(__file__))
            assert "WAGGLE_TEST_OF_THE_PARENT" not in os.environ
            assert os.getsid(0) == os.getpgid(0) == os.getpid()
            print("it says something")

        def test_fails():
            assert 1 + 1 == 3

        def test_is_late():
            print(os.getpid(), file=sys.__stderr__, flush=True)
            time.sleep(1000)
    """)
    )
    return root


def test_tests_run_in_a_copy_with_their_own_variables(
    inside: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAGGLE_TEST_OF_THE_PARENT", "1")
    monkeypatch.setattr(inside, "PRELOADED", ())
    here = Path.cwd()
    own = [*OWN, "-s"]
    events = run(inside, monkeypatch, ([*own, "-k", "where"], 60), ([*own, "-k", "fails"], 60))
    assert [event.code for event in events if isinstance(event, Ended)] == [0, 1]
    said = [event.text for event in events if isinstance(event, Line)]
    assert any("it says" in line for line in said)
    assert any("assert (1 + 1) == 3" in line for line in said)
    assert Path.cwd() == here
    assert "A" not in os.environ


def test_tests_that_are_late_end(
    inside: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "PRELOADED", ())
    events = run(inside, monkeypatch, ([*OWN, "-s", "-k", "late"], 5))
    assert [event.code for event in events if isinstance(event, Ended)] == [124]
    (pid,) = (e.text for e in events if isinstance(e, Line) and e.text.isdigit())
    assert members(int(pid)) == []


def test_what_cannot_be_imported_early_is_told_and_the_jobs_run(
    inside: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "PRELOADED", ("no_such_module",))
    events = run(inside, monkeypatch, ([*OWN, "-s", "-k", "where"], 60))
    first = events[1]
    assert isinstance(first, Line)
    assert "no_such_module could not be imported early" in first.text
    assert [event.code for event in events if isinstance(event, Ended)] == [0]


def test_what_is_imported_early_exists(inside: Any) -> None:
    assert [name for name in inside.PRELOADED if importlib.util.find_spec(name) is None] == []


def test_init_is_a_valid_shell_script() -> None:
    subprocess.run(["sh", "-n", str(LAB / "inside/init")], check=True)
