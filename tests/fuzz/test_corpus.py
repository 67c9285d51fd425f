# SPDX-License-Identifier: Apache-2.0
"""Inputs of the fuzzer's corpora do not make the kit's parsers misuse memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.fuzz.kit_targets import CORPUS, HERE, TARGETS, compile_target
from tests.support.programs import program


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_is_a_memory_fault(name: str, tmp_path: Path) -> None:
    inputs = sorted(str(path) for path in (CORPUS / name).iterdir())
    assert len(inputs) > 10
    replay = tmp_path / name
    sanitizers = "address,undefined"
    compile_target(name, replay, program("cc"), sanitizers, [HERE / "kit" / "replay.c"])
    done = subprocess.run([replay, *inputs], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
