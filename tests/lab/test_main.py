# SPDX-License-Identifier: Apache-2.0
"""The lab's command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.check import Facts, look
from lab.jobs import GIVEN, JOBS, TOTAL_SECONDS

from lab import __main__ as command


def test_without_arguments_all_jobs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GIVEN, raising=False)
    wish = command.wanted(command.parse([]))
    assert wish.jobs == list(JOBS)
    assert wish.cloud_hypervisor is None
    assert wish.libkrun == "1"
    assert wish.total_seconds >= TOTAL_SECONDS


def test_a_cloud_hypervisor_of_the_host_comes_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(GIVEN, "/opt/program")
    wish = command.wanted(command.parse(["--only", "cloud-hypervisor"]))
    assert [job.name for job in wish.jobs] == ["cloud-hypervisor"]
    assert wish.cloud_hypervisor == Path("/opt/program")
    monkeypatch.delenv(GIVEN)
    with pytest.raises(SystemExit):
        command.parse(["--only", "cloud-hypervisor"])
    assert "there is no job cloud-hypervisor" in capsys.readouterr().err


def test_one_job_or_another_command_can_be_selected() -> None:
    assert [j.name for j in command.wanted(command.parse(["--only", "contract"])).jobs] == [
        "contract"
    ]
    wish = command.wanted(command.parse(["--shell-command", "id", "--seconds", "5000"]))
    assert [(job.command, job.seconds) for job in wish.jobs] == [("id", 5000.0)]
    assert wish.total_seconds == 5000.0


def test_an_unknown_job_is_refused_and_the_known_ones_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--only", "nothing"])
    assert "there are contract, firecracker" in capsys.readouterr().err


def test_check_prints_why_the_lab_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_git() -> Facts:
        return look(lambda name: None if name == "git" else "/bin/true")

    monkeypatch.setattr(command, "look", without_git)
    assert command.main(["--check", "--cache", str(tmp_path)]) == 2
    assert "cannot run here: git is missing: apt-get install git" in capsys.readouterr().err
