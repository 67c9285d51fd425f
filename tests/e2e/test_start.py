# SPDX-License-Identifier: Apache-2.0
"""Failed starts: one clear line, a status that says if trying again helps, and nothing is left."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.waggle_process import environ

from waggle.cli.main import WRONG_SETTINGS

pytestmark = pytest.mark.slow

CASES = {
    "not a number": ({"max_environments": "many"}, "WAGGLE_MAX_ENVIRONMENTS='many'"),
    "out of range": ({"max_environments": "0"}, "expected a whole number from 1 to 1000"),
    "not a duration": ({"boot_timeout": "2"}, "WAGGLE_BOOT_TIMEOUT='2'"),
    "an open address": ({"listen_addr": "0.0.0.0:0"}, "WAGGLE_ALLOW_REMOTE=true"),
    "an empty range": (
        {"ssh_port_base": "12000", "ssh_port_max": "12000"},
        "WAGGLE_SSH_PORT_BASE=12000 must be below",
    ),
    "no such setting": ({"max_enviroments": "3"}, "Did you mean WAGGLE_MAX_ENVIRONMENTS?"),
    "no such address": (
        {"listen_addr": "192.0.2.1:8080", "allow_remote": "true"},
        "Cannot listen on 192.0.2.1 port 8080",
    ),
    "no certificates there": ({"ca_bundle": "/no/such.pem"}, "WAGGLE_CA_BUNDLE=/no/such.pem"),
    "no certificates in it": ({"ca_bundle": "/etc/passwd"}, "holds no PEM certificate"),
    "a directory that cannot be": ({"data_dir": "/proc/nope"}, "/proc/nope cannot be used"),
    "a directory that is a file": ({"data_dir": "/etc/passwd"}, "/etc/passwd cannot be used"),
    "a template without a place": (
        {"runtime_python_exec_command": "python3"},
        "WAGGLE_RUNTIME_PYTHON_EXEC_COMMAND",
    ),
}
OUTSIDE = {
    *("no such address", "no certificates there", "no certificates in it"),
    *("a directory that cannot be", "a directory that is a file"),
}
"""What another start may find changed, so that a service manager tries again."""


def start(directory: Path, settings: dict[str, str]) -> tuple[int, str]:
    """Run a start that must fail; return its status and its standard error."""
    cache = {"image_cache_dir": str(directory / "cache")}
    ended = subprocess.run(
        [sys.executable, "-m", "waggle", "serve"],
        env=environ(directory / "data", cache | settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("name", CASES)
def test_an_unusable_setting_is_reported(tmp_path: Path, name: str) -> None:
    settings, says = CASES[name]
    status, text = start(tmp_path, settings)
    assert status == (1 if name in OUTSIDE else WRONG_SETTINGS)
    first, *hints = text.splitlines()
    assert first.startswith("waggle: ")
    assert says in first
    assert len(hints) <= 1


def test_several_mistakes_are_all_reported(tmp_path: Path) -> None:
    status, text = start(tmp_path, {"default_cpus": "x", "scratch_mb": "y", "nonsense": "1"})
    assert status == WRONG_SETTINGS
    for name in ("DEFAULT_CPUS", "SCRATCH_MB", "NONSENSE"):
        assert f"WAGGLE_{name}" in text


def test_an_address_in_use_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = start(tmp_path, {"listen_addr": f"127.0.0.1:{port}"})
    assert status == 1
    assert text.startswith(
        f"waggle: Cannot listen on 127.0.0.1 port {port}: Address already in use"
    )
    assert "WAGGLE_LISTEN_ADDR" in text
    assert not (tmp_path / "data").exists(), "nothing was made before that was known"


def test_a_foreign_state_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state.db").write_bytes(b"what is this? " * 100)
    status, text = start(tmp_path, {})
    assert status == 1
    assert "state.db cannot be used" in text
    assert (tmp_path / "data" / "state.db").read_bytes().startswith(b"what is this?")


def test_values_that_look_secret_are_not_repeated(tmp_path: Path) -> None:
    status, text = start(tmp_path, {"api_token": "s3cr3t", "listen_addr": "http://me:s3cr3t@x"})
    assert status == WRONG_SETTINGS
    assert "WAGGLE_API_TOKEN" in text
    assert "s3cr3t" not in text
