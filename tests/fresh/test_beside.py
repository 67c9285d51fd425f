# SPDX-License-Identifier: Apache-2.0
"""Work beside the main thread: its output comes whole and last, and it ends with the block."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from fresh.beside import beside, output

from fresh import root
from waggle.domain.errors import SetupIncomplete

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can make namespaces")


def test_what_the_work_raises_is_raised_after_the_block() -> None:
    def work() -> None:
        raise ValueError("of the work")

    done: list[bool] = []

    def both() -> None:
        with beside(work):
            done.append(output() is None)

    with pytest.raises(ValueError, match="of the work"):
        both()
    assert done == [True]


@as_root
def test_output_of_the_work_comes_when_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    here = threading.Event()

    def work() -> None:
        root.run(["echo", "first"])
        assert here.wait(60)
        root.run(["echo", "second"])

    with beside(work):
        root.run(["echo", "from here"])
        assert "first" not in capfd.readouterr().out
        here.set()
    assert capfd.readouterr().out == "first\nsecond\n"


@as_root
def test_an_error_of_the_block_ends_the_programs_of_the_work(tmp_path: Path) -> None:
    fifo, failed = tmp_path / "fifo", list[str]()
    os.mkfifo(fifo)

    def work() -> None:
        for argv in (["sh", "-c", f"echo > {fifo}; sleep 1000"], ["sleep", "2000"]):
            try:
                root.run(argv)
            except SetupIncomplete as error:
                failed.append(error.message)

    def interrupted() -> None:
        with beside(work):
            fifo.read_text()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert failed == ["sh ended with status -9.", "sleep ended with status -9."]
