# SPDX-License-Identifier: Apache-2.0
"""Why a call of a guest failed: what its machine and its agent say."""

from __future__ import annotations

import time

import pytest
from tests.service.local.pretended import PretendMachine

from waggle.domain.errors import GuestLost
from waggle.infra.ssh import SshSilent
from waggle.service.local.diagnostician import Causes
from waggle.service.local.health import NotAsked

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("hint,says", [(None, "Call again. If"), ("Wait a bit.", "Wait a bit. If")])
async def test_a_call_that_a_living_machine_breaks_names_the_restart(
    hint: str | None, says: str
) -> None:
    async def unasked() -> str:
        raise AssertionError("it answers")

    causes = Causes(PretendMachine([]), lambda: None, unasked)
    with pytest.raises(GuestLost, match="no answer") as raised:
        async with causes.named():
            raise GuestLost("no answer", hint=hint)
    assert raised.value.hint.startswith(says)
    assert "restart_environment" in raised.value.hint


async def test_what_was_not_asked_waits_for_no_death() -> None:
    """As get_environment while a silent agent is left alone: nothing has just broken."""
    machine = PretendMachine([])
    causes = Causes(machine, lambda: None, known)
    began = time.monotonic()
    with pytest.raises(GuestLost, match="does not answer") as raised:
        async with causes.named():
            raise NotAsked("The guest's agent does not answer.")
    assert time.monotonic() - began < 0.5
    assert "restart_environment" in raised.value.hint
    machine.dead.set()
    with pytest.raises(GuestLost, match="The machine died"):
        async with causes.named():
            raise NotAsked("The guest's agent does not answer.")


async def known() -> str:
    return "Its agent says: all is well."


async def test_a_silent_ssh_server_is_explained_by_the_agent() -> None:
    causes = Causes(PretendMachine([]), lambda: None, known)
    with pytest.raises(SshSilent) as raised:
        async with causes.named():
            raise SshSilent("It does not answer.", hint="Wait a bit.")
    assert raised.value.message == "It does not answer. Its agent says: all is well."
    assert raised.value.hint.startswith("Wait a bit.")
    assert "restart_environment" in raised.value.hint


@pytest.mark.parametrize("error", [SshSilent("It does not answer."), GuestLost("It broke.")])
async def test_the_agent_is_not_asked_about_a_dead_machine_or_another_error(
    error: GuestLost,
) -> None:
    async def unasked() -> str:
        raise AssertionError("nobody asks")

    machine = PretendMachine([])
    if isinstance(error, SshSilent):
        machine.dead.set()
    causes = Causes(machine, lambda: None, unasked)
    with pytest.raises(GuestLost) as raised:
        async with causes.named():
            raise error
    assert ("The machine died" in raised.value.message) is isinstance(error, SshSilent)


async def test_the_agent_is_not_asked_about_a_guest_that_is_being_destroyed() -> None:
    async def unasked() -> str:
        raise AssertionError("nobody asks")

    causes = Causes(PretendMachine([]), lambda: None, unasked)
    causes.ends("The environment is being destroyed.")
    with pytest.raises(GuestLost, match="being destroyed"):
        async with causes.named():
            raise SshSilent("It does not answer.")
