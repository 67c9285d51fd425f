# SPDX-License-Identifier: Apache-2.0
"""Which of the pinned packages are installed in the outer machine."""

from __future__ import annotations

from pathlib import Path

from lab.session import DEV_REQUIREMENTS
from lab.wheels import UNUSED, pip_argv, select

PINS = """\
# made by a tool
anyio==4.16.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:cc
exceptiongroup==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:dd
ruff==0.17.5 \\
    --hash=sha256:ee
pytest==9.2.0 --hash=sha256:ff
"""


def test_markers_are_evaluated_for_the_outer_machine() -> None:
    assert select(PINS).splitlines() == [
        "anyio==4.16.0 \\",
        "    --hash=sha256:aa \\",
        "    --hash=sha256:bb",
        "exceptiongroup==1.0 \\",
        "    --hash=sha256:dd",
        "pytest==9.2.0 --hash=sha256:ff",
    ]


def test_real_pins_keep_their_hashes_and_unused_packages_are_left_out() -> None:
    lines = select(DEV_REQUIREMENTS.read_text("utf-8")).splitlines()
    names = {line.partition("==")[0] for line in lines if not line.startswith(" ")}
    assert {"pytest", "anyio", "cffi", "asyncssh", "mcp"} <= names
    assert names.isdisjoint(UNUSED | {"pywin32", "colorama"})
    assert not any(";" in line for line in lines)
    assert sum("--hash=sha256:" in line for line in lines) >= len(names)
    assert not lines[-1].endswith("\\")


def test_pip_accepts_only_pinned_wheels_for_the_outer_machine(tmp_path: Path) -> None:
    argv = pip_argv(tmp_path / "r.txt", tmp_path / "site")
    wanted = {"--only-binary=:all:", "--require-hashes", "--no-deps", "--python-version=3.11"}
    assert wanted <= set(argv)
