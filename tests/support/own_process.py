# SPDX-License-Identifier: Apache-2.0
"""One `waggle` command in the test's process: half a second faster than in a new process.

For commands that print and end. Use `tests.support.waggle_process.command_line` to test whether the
program starts, its signals and terminal, and its behaviour beside a server.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from tests.support.waggle_process import environ

from waggle.cli.main import main


def typed(*words: str, data: Path, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Return what `command_line` returns. Errors other than waggle's are raised, not printed."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.ExitStack() as around:
        around.enter_context(mock.patch.dict(os.environ, environ(data, settings), clear=True))
        nothing = around.enter_context(Path(os.devnull).open(encoding="utf-8"))
        around.enter_context(mock.patch.object(sys, "stdin", nothing))
        around.enter_context(contextlib.redirect_stdout(out))
        around.enter_context(contextlib.redirect_stderr(err))
        ended = around.enter_context(pytest.raises(SystemExit))
        main(words)
    code = ended.value.code
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(words, code, _text(out), _text(err))


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
