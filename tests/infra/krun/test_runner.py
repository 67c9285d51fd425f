# SPDX-License-Identifier: Apache-2.0
"""Real runner processes that do not get as far as a machine, and their error messages.

The libraries are made of bytes, so that `krun_start_enter` can fail, hang or end the process.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.infra.krun.elf import exits, krun_library, returns
from tests.infra.krun.parts import UID, needs_root

from waggle.infra.krun.library import Libkrun
from waggle.infra.krun.machine import RUNNER
from waggle.infra.krun.runner import FAILED, SAYS, Configuration, configure, encode
from waggle.infra.shared.confined import leash, python_argv

WITH_KVM = (
    "mount --make-rprivate / && mount -t tmpfs none /dev && touch /dev/kvm && chmod 666 /dev/kvm"
    ' && exec "$@"'
)
"""A /dev/kvm that opens, whatever this host has. Only root can set it up."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "machine.run"
    path.mkdir()
    return path


def configuration(directory: Path, library: str, **others: int | str) -> Configuration:
    kinds = Configuration.__annotations__
    fields: dict[str, int | str] = {
        name: "x" if kind == "str" else 0 for name, kind in kinds.items()
    }
    fields |= {
        "library": library,
        "directory": str(directory),
        "uid": -1,
        "kvm_gid": -1,
        "parent": os.getpid(),
        "cpus": 1,
        "memory_mib": 64,
    }
    return Configuration(**fields | others)


def run(data: bytes, *before: str, descriptor: int = -1) -> tuple[int, str]:
    """Return the exit status and stderr; stdout stays empty."""
    ended = subprocess.run(
        [*before, *leash(python_argv(RUNNER))],
        input=data,
        capture_output=True,
        check=False,
        cwd="/",
        env={},
        pass_fds=[descriptor] if descriptor >= 0 else [],
        timeout=60,
    )
    assert ended.stdout == b""
    return ended.returncode, ended.stderr.decode()


def started(directory: Path, library: Path, *before: str, **others: int | str) -> tuple[int, str]:
    """Run a runner for a machine with this library, as `run` does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        made = configuration(directory, str(library), directory_fd=descriptor, **others)
        return run(encode(made), *before, descriptor=descriptor)
    finally:
        os.close(descriptor)


def failure(outcome: tuple[int, str]) -> str:
    """Return the last line of a failed runner: one sentence behind the failure prefix."""
    status, text = outcome
    assert status == FAILED
    *_, last = text.splitlines()
    assert last.startswith(SAYS)
    assert "Traceback" not in text
    return last.removeprefix(SAYS)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"nonsense", b"\xff" * 100, b"cpus=many\0", b"library=/x\0", b"x" * 200_000],
    ids=["nothing", "nul", "a word", "no text", "no number", "one field", "too much"],
)
def test_a_malformed_configuration_is_refused(data: bytes) -> None:
    assert failure(run(data))


def test_a_missing_library_is_named(directory: Path) -> None:
    assert "libkrun.so.1: cannot open shared object" in failure(
        started(directory, directory / "libkrun.so.1")
    )


def test_a_library_that_is_not_libkrun_is_reported_by_its_missing_function(directory: Path) -> None:
    assert failure(started(directory, Path("libc.so.6"))) == "libkrun has no krun_init_log."


def test_a_call_that_fails_is_named(tmp_path: Path, directory: Path) -> None:
    library = krun_library(tmp_path / "libkrun.so", krun_create_ctx=returns(-12))
    assert failure(started(directory, library)) == (
        "krun_create_ctx failed: Cannot allocate memory (ENOMEM)."
    )


def test_a_dead_server_is_noticed(tmp_path: Path, directory: Path) -> None:
    library = krun_library(tmp_path / "libkrun.so")
    outcome = started(directory, library, parent=os.getpid() + 1_000_000)
    assert failure(outcome) == "The server is gone."


def test_a_library_that_crashes_is_reported_as_a_signal(tmp_path: Path, directory: Path) -> None:
    library = krun_library(tmp_path / "libkrun.so", krun_create_ctx=b"\x0f\x0b")  # ud2
    assert started(directory, library)[0] < 0


def test_files_in_its_working_directory_are_not_imported(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an environment variable make it import anything."""
    (tmp_path / "encodings.py").write_text("raise SystemExit(77)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = subprocess.run(
        python_argv(RUNNER), input=b"", capture_output=True, check=False, cwd=tmp_path, timeout=60
    )
    assert ended.returncode == FAILED
    assert directory.exists()


@needs_root
class TestWithKvm:
    """Everything up to the machine itself."""

    BEFORE = ("unshare", "--mount", "sh", "-c", WITH_KVM, "sh")

    def test_a_machine_that_cannot_be_built_is_reported(
        self, tmp_path: Path, directory: Path
    ) -> None:
        library = krun_library(tmp_path / "libkrun.so", krun_start_enter=returns(-22))
        assert failure(started(directory, library, *self.BEFORE)) == (
            "krun_start_enter failed: Invalid argument (EINVAL)."
        )

    @pytest.mark.parametrize(
        "change,reason", [("rm", "No such file or directory"), ("chmod 0", "Permission denied")]
    )
    def test_a_kvm_that_is_missing_or_not_permitted_is_reported(
        self, tmp_path: Path, directory: Path, change: str, reason: str
    ) -> None:
        os.chown(directory, UID, UID)
        library = krun_library(tmp_path / "libkrun.so")
        before = [
            word.replace(" && exec", f" && {change} /dev/kvm && exec") for word in self.BEFORE
        ]
        outcome = started(directory, library, *before, uid=UID)
        assert f"{reason}: '/dev/kvm'" in failure(outcome)

    def test_the_runner_becomes_the_machine(self, tmp_path: Path, directory: Path) -> None:
        library = krun_library(tmp_path / "libkrun.so", krun_start_enter=exits(42))
        assert started(directory, library, *self.BEFORE) == (42, "")

    def test_more_processors_than_kvm_allows_are_refused(
        self, tmp_path: Path, directory: Path
    ) -> None:
        library = krun_library(tmp_path / "libkrun.so", krun_get_max_vcpus=returns(2))
        assert failure(started(directory, library, *self.BEFORE, cpus=3)) == (
            "KVM gives a machine at most 2 processors here."
        )

    @pytest.mark.parametrize("others", [{"memory_mib": 1 << 32}, {"memory_mib": -1}, {"cpus": -1}])
    def test_absurd_sizes_are_refused(
        self, tmp_path: Path, directory: Path, others: dict[str, int]
    ) -> None:
        library = krun_library(tmp_path / "libkrun.so", krun_get_max_vcpus=returns(1000))
        outcome = started(directory, library, *self.BEFORE, **others)
        assert "krun_set_vm_config does not take this" in failure(outcome)


class Recorded(Libkrun):
    """A library that records every call instead of making it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.calls: list[tuple[object, ...]] = []

    def _call(self, name: str, *arguments: object) -> int:
        self.calls.append((name, *arguments))
        return 8


def test_the_machine_is_described_as_configured(tmp_path: Path, directory: Path) -> None:
    """It has no TSI, one vsock port, and one writable disk."""
    recorded = Recorded(krun_library(tmp_path / "libkrun.so"))
    described = configuration(
        directory,
        "x",
        kernel_fd=11,
        kit_fd=12,
        image_fd=13,
        scratch_fd=14,
        identity_fd=15,
        console_fd=16,
        agent_fd=17,
        renewal_fd=18,
        ssh_port=22,
        command_line="quiet",
        agent_port="agent",
        renewal_port="renewal",
        socket="ssh",
    )
    try:
        configure(recorded, described)
    except OSError as error:
        assert error.filename == "/dev/kvm"  # noqa: PT017  (not usable on this host)
        assert recorded.calls == []
        return
    calls = {call[0]: call[2:] for call in recorded.calls}
    disks = [call[2:] for call in recorded.calls if call[0] == "krun_add_disk3"]
    assert calls["krun_set_vm_config"] == (1, 64)
    assert calls["krun_set_kernel"][0] == b"/proc/self/fd/11"
    assert calls["krun_set_kernel"][3] == b"quiet"
    assert [(name, path, read_only) for name, path, _, read_only, *_ in disks] == [
        (b"kit", b"/proc/self/fd/12", True),
        (b"image", b"/proc/self/fd/13", True),
        (b"scratch", b"/proc/self/fd/14", False),
        (b"identity", b"/proc/self/fd/15", True),
    ]
    assert calls["krun_add_vsock"] == (0,)
    assert calls["krun_add_vsock_port2"] == (22, b"ssh", True)
    assert calls["krun_set_console_output"] == (b"/proc/self/fd/16",)
    ports = [call[2:] for call in recorded.calls if call[0] == "krun_add_console_port_inout"]
    assert ports == [(8, b"agent", 17, 17), (8, b"renewal", 18, 18)]
    names = [call[0] for call in recorded.calls]
    assert names.index("krun_disable_implicit_vsock") < names.index("krun_add_vsock")
    assert names.index("krun_add_vsock") < names.index("krun_add_vsock_port2")
