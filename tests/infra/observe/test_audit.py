# SPDX-License-Identifier: Apache-2.0
"""The audit log: one line a call whatever a client sends, through log rotation and a full disk."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.infra.observe.parts import CALL, Seconds
from tests.support.small_disk import needs_root, small_disk

from waggle.domain.access import Owner
from waggle.domain.errors import SettingsInvalid
from waggle.infra.observe.audit import MAX_PROGRAM, AuditLog, audit_line

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def audit(path: Path | None, clock: Clock | None = None, *, programs: bool = False) -> AuditLog:
    return AuditLog(path, programs=programs, now=lambda: NOW, monotonic=clock or Clock())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_all_fields(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = audit(path)
    log.call_ended(CALL)
    log.close()
    assert lines(path) == [
        {
            "time": "2026-03-04T05:06:07.089Z",
            "owner": "ann",
            "method": "tools/call",
            "tool": "execute",
            "environment": CALL.environment_id,
            "outcome": "ok",
            "duration_ms": 123.4,
            "session": "session",
            "client": "127.0.0.1",
        }
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_flood_of_refused_calls_is_one_line_a_second_per_owner(tmp_path: Path) -> None:
    path, later = tmp_path / "audit", Seconds()
    log = AuditLog(path, programs=False, now=lambda: NOW, monotonic=Clock(), later=later)
    refused = replace(CALL, outcome="rate_limited")
    for _ in range(10):
        for _ in range(700):
            log.call_ended(refused)
        log.call_ended(replace(refused, owner=Owner("bob")))
        log.call_ended(CALL)
        later.pass_one()
    log.close()
    outcomes = [(line["owner"], line["outcome"]) for line in lines(path)]
    assert outcomes.count(("ann", "ok")) == 10, "every permitted call has its own line"
    assert outcomes.count(("ann", "rate_limited")) == 11
    assert outcomes.count(("bob", "rate_limited")) == 10
    stood_for = sum(
        line.get("more_in_last_second", 0) + 1
        for line in lines(path)
        if (line["owner"], line["outcome"]) == ("ann", "rate_limited")
    )
    assert stood_for == 7_000


def test_refused_calls_still_counted_are_written_at_close(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, programs=False, now=lambda: NOW, monotonic=Clock(), later=Seconds())
    for _ in range(3):
        log.call_ended(replace(CALL, outcome="not_found"))
    log.close()
    assert [line.get("more_in_last_second") for line in lines(path)] == [None, 1]


def test_a_request_that_is_no_tool_call_names_its_method() -> None:
    line = json.loads(
        audit_line(replace(CALL, tool="", method="resources/read"), NOW, programs=True)
    )
    assert (line["method"], line["tool"]) == ("resources/read", None)


@given(st.text(), st.text() | st.lists(st.text() | st.integers()) | st.none() | st.binary())
def test_no_client_data_can_end_a_line(tool: str, program: object) -> None:
    line = audit_line(replace(CALL, tool=tool, program=program), NOW, programs=True)
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    json.loads(line)


def test_programs_are_logged_only_on_request_and_bounded() -> None:
    assert b"print" not in audit_line(CALL, NOW, programs=False)
    assert json.loads(audit_line(CALL, NOW, programs=True))["program"] == "print(1)"
    listed = replace(CALL, program=["ls", "a b"])
    assert json.loads(audit_line(listed, NOW, programs=True))["program"] == "ls 'a b'"
    for huge in ("x" * 1_000_000, ["x" * 1_000_000] * 50, ["x"] * 1_000_000):
        line = audit_line(replace(CALL, program=huge), NOW, programs=True)
        assert MAX_PROGRAM <= len(line) < 2 * MAX_PROGRAM


def test_an_existing_file_is_closed_to_others_but_not_to_its_group(tmp_path: Path) -> None:
    for before, after in ((0o666, 0o640), (0o640, 0o640), (0o600, 0o600)):
        path = tmp_path / f"{before:o}"
        path.touch()
        path.chmod(before)
        audit(path).close()
        assert path.stat().st_mode & 0o777 == after


def test_it_appends_to_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        log = audit(path)
        log.call_ended(CALL)
        log.close()
    assert len(lines(path)) == 2


def test_a_moved_file_is_created_again_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "audit", Clock()
    log = audit(path, clock)
    path.rename(tmp_path / "audit.1")
    log.call_ended(CALL)
    clock.seconds = 1
    log.call_ended(CALL)
    assert (len(lines(tmp_path / "audit.1")), len(lines(path))) == (1, 1)
    path.unlink()
    log.reopen()  # as SIGHUP does, without waiting
    log.call_ended(CALL)
    assert len(lines(path)) == 1
    log.close()


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "no/such", "."):
        with pytest.raises(SettingsInvalid, match="WAGGLE_AUDIT_LOG"):
            audit(tmp_path / name)
    assert not (tmp_path / "target").exists()


def test_a_link_made_later_is_not_followed(tmp_path: Path) -> None:
    path, clock = tmp_path / "audit", Clock()
    log = audit(path, clock)
    path.rename(tmp_path / "audit.1")
    path.symlink_to(tmp_path / "target")
    clock.seconds = 1
    with capture_logs() as logs:
        log.call_ended(CALL)
    assert not (tmp_path / "target").exists()
    assert len(lines(tmp_path / "audit.1")) == 1  # the old file stays in use
    assert [entry["event"] for entry in logs] == ["audit_log_failed"]
    log.close()


def test_a_full_disk_loses_lines_and_is_logged() -> None:
    clock = Clock()
    log = audit(None, clock)
    log._descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with capture_logs() as logs:
            for _ in range(50):
                log.call_ended(CALL)
            clock.seconds = 60
            log.call_ended(CALL)
        assert [(entry["event"], entry["lost"]) for entry in logs] == [
            ("audit_log_failed", 1),
            ("audit_log_failed", 51),
        ]
    finally:
        os.close(log._descriptor)


@needs_root
def test_written_lines_stay_and_logging_resumes_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk.path / "audit"
        log = audit(path)
        log.call_ended(CALL)
        disk.fill()
        with capture_logs() as logs:
            for _ in range(1 << 5):  # the first still fit into the file's last page
                log.call_ended(replace(CALL, environment_id="x" * 1000))
            written = lines_but_the_last(path)
            disk.free()
            log.call_ended(CALL)
        log.close()
        failed, again = logs
        assert (failed["event"], again["event"]) == ("audit_log_failed", "audit_log_works_again")
        assert len(written) + again["lost"] == (1 << 5) + 1
        assert lines_but_the_last(path)[: len(written)] == written
        assert json.loads(path.read_text().splitlines()[-1])["owner"] == "ann"


def lines_but_the_last(path: Path) -> list[str]:
    """Return the complete lines; a torn one may follow them."""
    return [line for line in path.read_text().splitlines() if line.endswith("}")]


def test_a_torn_line_is_followed_by_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = audit(path)
    with path.open("ab") as file:
        file.write(b'{"time": "20')
    log._torn = True
    log.call_ended(CALL)
    log.close()
    assert json.loads(path.read_text().splitlines()[1])["owner"] == "ann"
