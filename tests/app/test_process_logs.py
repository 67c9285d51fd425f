# SPDX-License-Identifier: Apache-2.0
"""Logging: which failures are logged, and how logging behaves on a full disk."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import anyio
import pytest
import structlog
from tests.support.small_disk import needs_root, small_disk

from waggle.app.process import configure_logging


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Generator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    configure_logging("info", "json")
    yield out
    root.handlers, root.level = before


def log(name: str, error: Exception) -> None:
    try:
        raise error
    except type(error):
        logging.getLogger(name).exception("it failed")


def test_a_client_that_leaves_during_its_answer_is_not_logged(written: io.StringIO) -> None:
    log("mcp.server.streamable_http", anyio.ClosedResourceError())
    assert written.getvalue() == ""


def test_every_other_failure_is_logged(written: io.StringIO) -> None:
    log("mcp.server.streamable_http", ValueError("bad"))
    log("waggle.web", anyio.ClosedResourceError())
    assert written.getvalue().count("it failed") == 2


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(
    written: io.StringIO, form: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    """Secrets and tokens are in local variables."""
    configure_logging("info", form)

    def fail(secret: str) -> None:
        held = secret[::-1]
        raise ValueError(len(held))

    try:
        fail("ghp_" + "s3cr3t")
    except ValueError:
        structlog.get_logger("waggle.infra").exception("it failed")
    shown = written.getvalue() + capsys.readouterr().err
    assert "Traceback" in shown
    assert "ghp_s3cr3t" not in shown
    assert "ghp_s3cr3t"[::-1] not in shown


LOGS_WHAT_IT_READS = """
import sys, structlog
from waggle.app.process import configure_logging
configure_logging("info", "json")
for line in sys.stdin:
    structlog.get_logger().info(line.strip(), filler="x" * 3000)
    print("answered", flush=True)
"""


@needs_root
def test_a_log_on_a_full_disk_loses_lines_and_resumes_when_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk, (disk.path / "log").open("ab") as log:
        words = [sys.executable, "-c", LOGS_WHAT_IT_READS]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=log, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            for event, change in {
                "before": disk.fill,
                "meanwhile": lambda: None,
                "still": disk.free,
                "after": lambda: None,
            }.items():
                server.stdin.write(f"{event}\n")
                server.stdin.flush()
                assert server.stdout.readline() == "answered\n"
                change()
            server.stdin.close()
            assert server.wait(30) == 0
        lines = (disk.path / "log").read_text().splitlines()  # lines in between may be torn
        assert [json.loads(lines[at])["event"] for at in (0, -1)] == ["before", "after"]
