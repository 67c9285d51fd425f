# SPDX-License-Identifier: Apache-2.0
"""shutdown and reboot, in a PID namespace whose init ends with the signal that it gets."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.support.agent_places import needs_root, with_directory, with_init
from tests.support.agent_program import SECONDS, Agent, running_agent
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import ErrorCode

pytestmark = needs_root
RUN, SBIN = Path("/run"), Path("/sbin").resolve()


def ends_with(agent: Agent, method: str, **params: object) -> int:
    """Have the machine end; return the signal that its init got, or minus that of the kernel."""
    assert agent.result(method, **params) == {}
    return agent.process.wait(SECONDS)


@pytest.mark.parametrize(
    "init, method, number",
    [
        ("systemd", "shutdown", 38),
        ("systemd", "reboot", 39),
        ("busybox", "shutdown", signal.SIGUSR2),
        ("busybox", "reboot", signal.SIGTERM),
    ],
)
@pytest.mark.parametrize("params", [{}, {"manner": "graceful"}], ids=["default", "graceful"])
def test_init_is_told_in_its_own_words(
    agent_program: Path, tmp_path: Path, init: str, method: str, number: int, params: dict[str, str]
) -> None:
    prefix = with_init("--init", init)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert ends_with(agent, method, **params) == number


def test_systemd_is_known_by_its_directory(agent_program: Path, tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    prefix = with_directory(tmp_path / "run", RUN) + with_init()
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert ends_with(agent, "reboot") == 39


@pytest.mark.parametrize("method, option", [("shutdown", "-h"), ("reboot", "-r")])
def test_another_init_is_told_by_its_program(
    agent_program: Path, tmp_path: Path, method: str, option: str
) -> None:
    for name in ("run", "sbin"):
        (tmp_path / name).mkdir()
    said = tmp_path / "said"
    shutdown = tmp_path / "sbin/shutdown"
    shutdown.write_text(f'#!/bin/sh\necho "$@" > {said}.new\nmv {said}.new {said}\n')
    shutdown.chmod(0o755)
    prefix = with_directory(tmp_path / "run", RUN)
    prefix += with_init() + with_directory(tmp_path / "sbin", SBIN)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert agent.result(method) == {}
        until_sync(said.exists)
        assert said.read_text() == f"{option} now\n"
        assert agent.result("ping") == {}


def test_an_unknown_init_is_not_supported(agent_program: Path, tmp_path: Path) -> None:
    for name in ("run", "sbin"):
        (tmp_path / name).mkdir()
    prefix = with_directory(tmp_path / "run", RUN)
    prefix += with_init() + with_directory(tmp_path / "sbin", SBIN)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert agent.error("shutdown")["code"] == ErrorCode.UNSUPPORTED
        assert agent.result("ping") == {}


@pytest.mark.parametrize("method, number", [("shutdown", signal.SIGINT), ("reboot", signal.SIGHUP)])
def test_the_kernel_ends_it_at_once(
    agent_program: Path, tmp_path: Path, method: str, number: int
) -> None:
    # reboot(2) in a PID namespace ends its init, as by these signals.
    with running_agent(agent_program, tmp_path, prefix=with_init()) as agent:
        assert ends_with(agent, method, manner="forced") == -number


def test_without_the_right_it_is_refused(agent_program: Path, tmp_path: Path) -> None:
    drop = ("setpriv", "--bounding-set=-sys_boot", "--inh-caps=-sys_boot")
    with running_agent(agent_program, tmp_path, prefix=with_init() + drop) as agent:
        error = agent.error("reboot", manner="forced")
        assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "EPERM"})
        assert agent.result("ping") == {}


@pytest.mark.parametrize("manner", ["", "Forced", "forced ", "x" * 17, 1, ["forced"]])
def test_another_manner_is_refused(agent_program: Path, tmp_path: Path, manner: object) -> None:
    with running_agent(agent_program, tmp_path, prefix=with_init()) as agent:
        error = agent.error("shutdown", manner=manner)
        assert (error["code"], error["data"]) == (
            ErrorCode.INVALID_PARAMS,
            {"parameter": "manner"},
        )
        assert agent.result("ping") == {}
