# SPDX-License-Identifier: Apache-2.0
"""What is logged, and what is no news."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator

import anyio
import pytest

from waggle.logs import configure_logging


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


def test_a_client_that_is_gone_while_it_is_answered_is_no_news(written: io.StringIO) -> None:
    log("mcp.server.streamable_http", anyio.ClosedResourceError())
    assert written.getvalue() == ""


def test_every_other_failure_is(written: io.StringIO) -> None:
    log("mcp.server.streamable_http", ValueError("bad"))
    log("waggle.web", anyio.ClosedResourceError())
    assert written.getvalue().count("it failed") == 2
