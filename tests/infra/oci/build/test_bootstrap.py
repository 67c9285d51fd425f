# SPDX-License-Identifier: Apache-2.0
"""Making a Debian tree: the command, the mode, the archive, and an end without leftovers."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.oci.build.bootstrap import (
    bootstrap_argv,
    debian_mirror,
    debian_tree,
    mmdebstrap_mode,
)
from waggle.infra.oci.build.definition import ImageDefinition


def test_the_command_is_reproducible_and_quotes_inner_commands() -> None:
    definition = ImageDefinition(
        "x",
        "trixie",
        "apt",
        1_767_225_600,
        packages=("curl", "git"),
        warm_up=(("echo", "$(id) 'q'"),),
    )
    argv = bootstrap_argv(definition, "file:///mirror", "root", Path("/t m"))
    assert argv[0] == "env"
    assert "SOURCE_DATE_EPOCH=1767225600" in argv
    assert "TMPDIR=/t m" in argv
    assert "--include=curl,git" in argv
    assert argv[-3:] == ["trixie", "-", "deb file:///mirror trixie main"]
    [hook] = [a for a in argv if a.startswith("--customize-hook=")]
    assert shlex.split(hook.partition("=")[2])[-2:] == ["echo", "$(id) 'q'"]


def test_an_image_with_a_base_starts_from_the_tree_of_the_base() -> None:
    lower, wheels = Path("/w s/lower.tar"), Path("/w s/requirements")
    definition = ImageDefinition("x", "trixie", "apt", 1, packages=("jq",))
    argv = bootstrap_argv(definition, "file:///mirror", "root", None, lower, wheels)
    assert "--variant=custom" in argv
    assert "--setup-hook=tar-in '/w s/lower.tar' /" in argv
    assert not [word for word in argv if word.startswith("--include")]
    apt, copy, pip, remove = (w for w in argv if w.startswith("--customize-hook="))
    assert apt.endswith(" install jq")
    assert copy == "--customize-hook=copy-in '/w s/requirements' /tmp"
    assert "--require-hashes" in pip
    assert remove.endswith("rm -r /tmp/requirements")
    assert "--skip=update" not in argv


def test_apt_is_not_run_if_only_pip_installs() -> None:
    definition = ImageDefinition("x", "trixie", "apt", 1)
    argv = bootstrap_argv(definition, "file:///mirror", "root", None, Path("/lower"), Path("/w"))
    assert "--skip=update" in argv
    assert not any("apt-get" in word for word in argv)


@pytest.mark.parametrize(
    "mirror", ["http://user:pw@host/debian", "not an address", "http://h/x y", "-o Evil=1", "http:"]
)
def test_an_unusable_archive_names_the_setting(mirror: str) -> None:
    with pytest.raises(SetupIncomplete) as caught:
        debian_mirror(mirror)
    assert "pw" not in str(caught.value)


def test_the_configured_archive_is_used_unchanged() -> None:
    assert debian_mirror("file:///srv/debian") == "file:///srv/debian"


def test_root_needs_no_user_namespace() -> None:
    assert mmdebstrap_mode(0) == "root"


def test_unprivileged_users_need_subordinate_ids(tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text("somebody:100000:65536\n")
    with pytest.raises(SetupIncomplete) as caught:
        mmdebstrap_mode(65534, subuid)
    assert "usermod --add-subuids" in caught.value.hint
    subuid.write_text("nobody:100000:65536\n")
    assert mmdebstrap_mode(65534, subuid) == "unshare"
    subuid.write_text("65534:100000:65536\n")
    assert mmdebstrap_mode(65534, subuid) == "unshare"


def test_output_is_streamed_and_lines_are_reported() -> None:
    lines: list[str] = []
    with debian_tree(["sh", "-c", "echo data; pwd; echo I: one >&2"], lines.append) as stream:
        assert stream.read() == b"data\n/\n", "it starts where everybody may go"
    assert lines == ["I: one"]


def test_a_failure_carries_the_last_lines() -> None:
    argv = ["sh", "-c", "echo E: no such package >&2; exit 25"]
    with (
        pytest.raises(SetupIncomplete, match=r"status 25(.|\n)*no such package"),
        debian_tree(argv, lambda _: None) as stream,
    ):
        stream.read()


def _alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_an_interruption_ends_the_whole_session() -> None:
    program = (
        "import os, subprocess, sys; "
        "child = subprocess.Popen(['sleep', '1000']); "
        "print(os.getpid(), child.pid, flush=True); child.wait()"
    )
    pids: list[int] = []

    def interrupted() -> None:
        with debian_tree([sys.executable, "-c", program], lambda _: None) as stream:
            pids.extend(int(word) for word in stream.readline().split())
            assert all(os.getpgid(pid) == pids[0] for pid in pids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(_alive, pids))
