# SPDX-License-Identifier: Apache-2.0
"""A context of Python for each test.

TESTED_PYTHONS names more interpreters, separated by colons: other versions, and those with IPython,
which are tested with its shell and without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.context_rig import ContextRig

PYTHONS = [python for python in os.environ.get("TESTED_PYTHONS", "").split(":") if python]


def _has_ipython(python: str) -> bool:
    argv = [python, "-c", "import importlib.util as u; print(u.find_spec('IPython'))"]
    return subprocess.run(argv, capture_output=True, check=True).stdout != b"None\n"


@pytest.fixture(params=["plain", "IPython"])
def shell(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[sys.executable, *PYTHONS])
def rig(request: pytest.FixtureRequest, shell: str, tmp_path: Path) -> Iterator[ContextRig]:
    if shell == "IPython" and not _has_ipython(request.param):
        pytest.skip(f"{request.param} lacks IPython: TESTED_PYTHONS names one that has it")
    environment = {} if shell == "IPython" else {"WAGGLE_PLAIN": "1"}
    with ContextRig(tmp_path, request.param, **environment) as rig:
        yield rig
