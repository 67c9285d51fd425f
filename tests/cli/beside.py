# SPDX-License-Identifier: Apache-2.0
"""The command line beside a server of this process."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest
from tests.support.server import Rig
from tests.support.waggle_process import command_line


class Commands:
    """The command line, next to a server; `settings` are more of its settings."""

    def __init__(self, rig: Rig, directory: Path, **settings: str) -> None:
        self._directory = directory
        self.settings = {
            "image_cache_dir": "/nonexistent",
            "listen_addr": rig.url.removeprefix("http://"),
            **settings,
        }

    async def __call__(self, *words: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Run a command to its end, and return its status and both outputs."""
        ended = await anyio.to_thread.run_sync(
            lambda: command_line(*words, data=self._directory, settings=self.settings, stdin=stdin)
        )
        return ended.returncode, ended.stdout, ended.stderr


class Said:
    """What commands that run in the test's process have said on stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def has(self, text: str) -> bool:
        """Whether they have said this."""
        self._text += self._capsys.readouterr().err
        return text in self._text
