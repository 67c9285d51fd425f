# SPDX-License-Identifier: Apache-2.0
"""Evidence for a diagnosis: gathered only after failures, within limits, from the right source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio
import pytest
from tests.support.vm import environment

from waggle.domain.diagnosis import MISSING, NO_RECORD, RunFacts
from waggle.domain.errors import GuestLost
from waggle.domain.network import PUBLIC_NETWORK, Network, parse_network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.use import NetworkUse, Remembered
from waggle.domain.programs import Command, ExecutionResult, GuestUser, Output
from waggle.service.local.diagnostician import MOST_REPORTED, Diagnostician

pytestmark = pytest.mark.anyio
FAILED = Command(
    ("python3", "{file}"),
    timeout=60,
    output_limit=1_000,
    code=b"import x",
    cwd="/work",
    env={"PYTHONPATH": "lib"},
    user=GuestUser.ROOT,
)
SAID = b"ModuleNotFoundError: No module named 'x'\n"
REFUSED = Decision("10.0.0.9", 443, "private", "it is a private address")
OTHER = Decision("example.org", 443, "no-rule", "no rule allows it")


def result(exit_code: int | None = 1, stderr: bytes = b"", stdout: bytes = b"") -> ExecutionResult:
    return ExecutionResult(Output(stdout), Output(stderr), exit_code, None, False, 2.0, "the-run")


@dataclass
class Parts:
    """A guest with prepared answers. The proxy refused `refused` one second ago."""

    record: RunFacts = NO_RECORD
    answer: ExecutionResult = field(default_factory=lambda: result(0, stdout=MISSING.encode()))
    refused: tuple[Decision, ...] = ()
    error: Exception | None = None
    hangs: bool = False
    run_ids: list[str] = field(default_factory=list[str])
    programs: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    ran: list[Command] = field(default_factory=list[Command])
    network: Network = PUBLIC_NETWORK

    async def why(self, run_id: str, programs: Sequence[str]) -> RunFacts:
        self.run_ids.append(run_id)
        self.programs.append(tuple(programs))
        if self.hangs:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error
        return self.record

    async def run(self, command: Command) -> ExecutionResult:
        self.ran.append(command)
        return self.answer

    def use(self) -> NetworkUse:
        denied = tuple(Remembered(decision, 1, ago=1.0) for decision in self.refused)
        return NetworkUse(self.network, refused=len(denied), denied=denied)

    def diagnostician(self, patience: float = 10.0) -> Diagnostician:
        return Diagnostician(environment(), self.why, self.run, self.use, patience)


async def test_a_successful_run_asks_for_nothing() -> None:
    parts = Parts()
    assert await parts.diagnostician().explain(FAILED, result(0)) is None
    assert (parts.run_ids, parts.ran) == ([], [])


async def test_the_guest_is_asked_about_the_failed_run() -> None:
    parts = Parts(RunFacts(oom_kills=1))
    found = await parts.diagnostician().explain(FAILED, result())
    assert found
    assert (found.code, parts.run_ids, parts.ran) == ("out_of_memory", ["the-run"], [])
    assert "at 192 MiB" in found.cause


@pytest.mark.parametrize("exit_code", [0, 127])
async def test_the_guest_is_asked_about_a_command_that_was_reported_missing(exit_code: int) -> None:
    said = result(exit_code, b"bash: line 1: pkill: command not found\n")
    parts = Parts(RunFacts(have=frozenset({"apt-get"})))
    found = await parts.diagnostician().explain(FAILED, said)
    assert found
    assert found.code == "command_not_found"
    assert "procps" in found.next_step
    assert "pkill" in parts.programs[0]
    assert parts.ran == []


async def test_a_missing_command_reported_on_stdout_counts() -> None:
    said = result(127, stdout=b"bash: line 1: ps: command not found\n")
    found = await Parts(RunFacts(have=frozenset())).diagnostician().explain(FAILED, said)
    assert found
    assert "ps" in found.cause


async def test_a_command_that_exists_is_not_reported_missing() -> None:
    said = result(0, b"sh: 1: ps: not found\n")
    for record in (RunFacts(have=frozenset({"ps"})), NO_RECORD):
        assert await Parts(record).diagnostician().explain(FAILED, said) is None


async def test_listeners_are_looked_up_as_root_when_an_address_is_in_use() -> None:
    parts = Parts(answer=result(0, stdout=b"412 1F40 python3 -m http.server \n9 0016 dropbear\n"))
    said = b"OSError: [Errno 98] Address already in use\n"
    found = await parts.diagnostician().explain(FAILED, result(1, said))
    assert found
    assert "pid 412 on port 8000, python3 -m http.server." in found.cause
    (ask,) = parts.ran
    assert (ask.argv[0], ask.user, ask.env) == ("sh", GuestUser.ROOT, {})


async def test_refusals_count_from_the_start_of_the_run() -> None:
    explain = Parts(refused=(REFUSED,)).diagnostician().explain
    found = await explain(FAILED, result())
    assert found
    assert found.code == "network_refused"
    assert await explain(FAILED, replace(result(), duration=0.5)) is None


async def test_a_refusal_is_reported_once_to_runs_that_do_not_fail_and_always_to_others() -> None:
    parts = Parts(refused=(REFUSED,))
    explain = parts.diagnostician().explain
    codes: list[str | None] = []
    for ended in (result(0), result(0), result(1), result(1)):
        found = await explain(FAILED, ended)
        codes.append(found.code if found else None)
    assert codes == ["network_refused", None, "network_refused", "network_refused"]
    assert len(parts.run_ids) == 2  # nothing is asked of the guest about a run that did not fail
    parts.refused = (REFUSED, OTHER)
    found = await explain(FAILED, result(0))
    assert found
    assert "10.0.0.9" not in found.cause
    assert "example.org:443 was refused: no rule allows it." in found.cause


async def test_what_was_reported_is_remembered_within_bounds() -> None:
    parts = Parts()
    explain = parts.diagnostician().explain
    for number in range(MOST_REPORTED + 1):
        parts.refused = (Decision(f"{number}.test", 443, "no-rule", "no rule allows it"),)
        assert await explain(FAILED, result(0))
    assert await explain(FAILED, result(0)) is None
    parts.refused = (Decision("0.test", 443, "no-rule", "no rule allows it"),)
    assert await explain(FAILED, result(0))


async def test_the_network_that_is_reported_is_that_of_now() -> None:
    parts = Parts(refused=(OTHER,), network=parse_network("example.net"))
    found = await parts.diagnostician().explain(FAILED, result())
    assert found
    name = environment().name
    assert found.next_step == (
        'Allowed: example.net. set_network with allow ["example.org"] opens it; a person opens it '
        f"with `waggle env network {name} --allow example.org`."
    )


async def test_a_module_is_looked_for_where_the_program_ran() -> None:
    parts = Parts()
    found = await parts.diagnostician().explain(FAILED, result(1, SAID))
    assert found
    assert found.code == "module_not_found"
    (ask,) = parts.ran
    assert (ask.cwd, ask.env, ask.user) == (FAILED.cwd, FAILED.env, FAILED.user)
    assert (ask.argv[0], ask.argv[-1], ask.code) == ("python3", "x", None)


@pytest.mark.parametrize("answer", [result(0), result(1), result(0, stdout=b"missing\nmore")])
async def test_a_module_is_missing_only_if_python_confirms_it(answer: ExecutionResult) -> None:
    assert await Parts(answer=answer).diagnostician().explain(FAILED, result(1, SAID)) is None


async def test_a_guest_that_does_not_answer_is_not_waited_for() -> None:
    parts = Parts(hangs=True, refused=(REFUSED,))
    found = await parts.diagnostician(patience=0.0).explain(FAILED, result(1, SAID))
    assert found
    assert (found.code, parts.ran) == ("network_refused", [])


@pytest.mark.parametrize("error", [GuestLost("It died."), ValueError("a bug")])
async def test_an_error_while_gathering_does_not_reach_the_caller(error: Exception) -> None:
    found = await Parts(error=error, refused=(REFUSED,)).diagnostician().explain(FAILED, result())
    assert found
    assert found.code == "network_refused"
