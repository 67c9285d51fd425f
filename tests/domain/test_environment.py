# SPDX-License-Identifier: Apache-2.0
"""The environment aggregate: transitions, slots, expiry, and its parsers."""

import string
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.environment import (
    HOLDING_STATES,
    TRANSITIONS,
    VISITED_AT_MOST,
    Environment,
    State,
    parse_timeout,
)
from waggle.domain.errors import Busy, InvalidArgument, InvalidTransition, NotRunning
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.names import parse_id, parse_name
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = VmmProcess(pid=42, started=1, boot_id="b")
C, R, P, RE, DG, DD, E = (
    State.CREATING,
    State.RUNNING,
    State.PAUSED,
    State.RESUMING,
    State.DESTROYING,
    State.DESTROYED,
    State.ERROR,
)
LEGAL = {
    (C, R), (C, DG), (C, E),
    (R, P), (R, DG), (R, E),
    (P, RE), (P, DG), (P, E),
    (RE, R), (RE, P), (RE, DG), (RE, E),
    (E, DG),
    (DG, DD), (DG, E),
}  # fmt: skip


def environment(state: State = C, **changes: object) -> Environment:
    values: dict[str, object] = {
        "id": "0" * 8 + "-0000-4000-8000-" + "0" * 12,
        "name": "box",
        "runtime": RuntimeName.PYTHON,
        "image": "waggle/python",
        "owner": "alice",
        "resources": Resources(1, 512, 1024),
        "network": PUBLIC_NETWORK,
        "idle_timeout": timedelta(minutes=30),
        "created_at": NOW,
        "last_used_at": NOW,
        "state": state,
    }
    return Environment(**(values | changes))  # pyright: ignore[reportArgumentType]


# Transitions


@pytest.mark.parametrize("start, end", [*product(State, State)], ids=str)
def test_a_transition_outside_the_table_is_refused(start: State, end: State) -> None:
    if (start, end) in LEGAL:
        assert environment(start).to(end).state is end
    else:
        with pytest.raises(InvalidTransition, match=f"from {start} to {end}") as refused:
            environment(start).to(end)
        assert refused.value.hint


def test_the_table_has_every_state_and_destroyed_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.DESTROYED] == frozenset()


def test_every_state_can_still_be_destroyed() -> None:
    for state in set(State) - {State.DESTROYED, State.DESTROYING}:
        ended = environment(state).to(State.DESTROYING).to(State.DESTROYED)
        assert ended.state is State.DESTROYED


def test_a_transition_changes_only_the_state_of_a_copy() -> None:
    before = environment(R)
    after = before.to(DG)
    assert before.state is R
    assert after == environment(DG)


def test_an_error_is_kept_until_another_replaces_it() -> None:
    failed = environment(R).to(E, error="out of memory")
    assert failed.error == "out of memory"
    assert failed.to(DG).to(DD).error == "out of memory"
    assert failed.to(DG).to(E, error="stuck").error == "stuck"


def test_only_a_running_environment_serves_calls_and_others_state_why() -> None:
    environment(R).require_running()
    for state in set(State) - {R}:
        with pytest.raises(NotRunning, match=f"is {state}\\."):
            environment(state).require_running()
    with pytest.raises(NotRunning, match=r"is error: out of memory\."):
        environment(E, error="out of memory").require_running()


# The machine and the slot


def test_a_machine_and_its_ssh_port_are_set_and_removed_together() -> None:
    digests = {"image": "sha256:1"}
    booted = environment().with_machine(MACHINE, ssh_port=10_000, booted_from=digests)
    digests.clear()
    assert (booted.machine, booted.ssh_port) == (MACHINE, 10_000)
    gone = booted.without_machine()
    assert (gone.machine, gone.ssh_port) == (None, None)
    assert gone.booted_from == {"image": "sha256:1"}


@pytest.mark.parametrize("state", State)
def test_a_slot_is_held_by_the_state_or_by_a_remaining_machine(state: State) -> None:
    assert environment(state).holds_capacity is (state in {C, R, RE, DG})
    assert environment(state, machine=MACHINE).holds_capacity
    assert (state in HOLDING_STATES) is environment(state).holds_capacity


def test_an_environment_paused_to_disk_holds_no_slot_and_expires() -> None:
    until = NOW + timedelta(days=1)
    paused = environment(R, machine=MACHINE, ssh_port=1).to(P)
    assert paused.holds_capacity
    assert not paused.is_on_disk
    on_disk = paused.paused_to_disk(until)
    assert on_disk.is_on_disk
    assert not on_disk.holds_capacity
    assert not on_disk.is_expired(until - timedelta(microseconds=1))
    assert on_disk.is_expired(until)
    resumed = on_disk.to(RE).resumed(until)
    assert (resumed.state, resumed.paused_until, resumed.last_used_at) == (R, None, until)


def test_an_environment_with_a_call_is_busy() -> None:
    environment(R).require_quiet()
    with pytest.raises(Busy, match="1 calls in progress"):
        environment(R).call_started(NOW).require_quiet()


# Use and idleness


def test_calls_are_counted_and_move_the_time_of_last_use() -> None:
    later = NOW + timedelta(minutes=5)
    used = environment(R).call_started(NOW).call_started(NOW)
    assert used.active_calls == 2
    ended = used.call_ended(later)
    assert (ended.active_calls, ended.last_used_at) == (1, later)


def test_a_call_that_never_began_cannot_end() -> None:
    with pytest.raises(InvalidTransition):
        environment(R).call_ended(NOW)


@given(st.lists(st.tuples(st.booleans(), st.integers(-100, 100)), max_size=30))
def test_the_time_of_last_use_never_goes_back(steps: list[tuple[bool, int]]) -> None:
    current = environment(R)
    for starts, minutes in steps:
        now = NOW + timedelta(minutes=minutes)
        if starts or not current.active_calls:
            following = current.call_started(now)
        else:
            following = current.call_ended(now)
        assert following.last_used_at == max(now, current.last_used_at)
        current = following


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("late", [False, True])
def test_an_idle_environment_past_its_time_is_expired(state: State, calls: int, late: bool) -> None:
    one = environment(state, active_calls=calls)
    now = one.expires_at() - timedelta(0 if late else 1)
    assert one.is_expired(now) is (late and not calls and state in {R, P, E})


@pytest.mark.parametrize("calls", [0, 1])
def test_an_environment_in_error_with_a_machine_is_expired_at_once(calls: int) -> None:
    assert environment(E, machine=MACHINE, active_calls=calls).is_expired(NOW)


# Parsers


@given(st.uuids())
def test_every_uuid_is_an_id_in_any_case(value: object) -> None:
    assert parse_id(str(value)) == str(value)
    assert parse_id(f"  {str(value).upper()}\n") == str(value)


@given(st.text())
def test_an_id_is_normal_or_refused(text: str) -> None:
    try:
        parsed = parse_id(text)
    except InvalidArgument:
        return
    assert parse_id(parsed) == parsed
    assert set(parsed) <= set("0123456789abcdef-")


def test_a_refused_id_is_quoted_in_one_short_line() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_id("x\n\x1b[31m" + "x" * 1_000_000)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 150
    assert "environment_id" in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "../../etc/passwd",
        "00000000-0000-4000-8000-00000000000",
        "00000000-0000-4000-8000-0000000000000",
        "g0000000-0000-4000-8000-000000000000",
        "{00000000-0000-4000-8000-000000000000}",
        "00000000000040008000000000000000",
        "00000000-0000-4000-8000-00000000000\N{ARABIC-INDIC DIGIT ZERO}",
        "00000000-0000-4000-8000-000000000000\0",
    ],
)
def test_a_malformed_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_id(text)


@pytest.mark.parametrize("name", ["a", "7", "python-0a1b2c3d", "My_box.2", "a" * 63])
def test_valid_names_are_accepted(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 64,
        "-a",
        "a-",
        ".a",
        "a.",
        "a b",
        "a/b",
        "a\n",
        "a\0",
        "ä",
        "a;b",
        "$(a)",
        "\u0660",
    ],
)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_name(name)


@given(st.text())
def test_a_name_that_passes_is_a_safe_hostname(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidArgument:
        return
    assert name == text
    assert 1 <= len(name) <= 63
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert name[0] not in "._-"
    assert name[-1] not in "._-"


@given(st.integers())
def test_a_timeout_is_one_to_sixty_minutes(minutes: int) -> None:
    if 1 <= minutes <= 60:
        assert parse_timeout(minutes) == timedelta(minutes=minutes)
    else:
        with pytest.raises(InvalidArgument, match="1 to 60"):
            parse_timeout(minutes)


def test_an_absurd_timeout_is_refused_like_any_other() -> None:
    for minutes in (10**5000, -(10**5000)):
        with pytest.raises(InvalidArgument):
            parse_timeout(minutes)


def test_visits_extend_the_use_for_a_limited_time_after_the_last_call() -> None:
    idle, hour = timedelta(minutes=30), timedelta(hours=1)
    visited = environment(R).visited(NOW + hour)
    assert visited.expires_at() == NOW + hour + idle
    assert not visited.is_expired(NOW + hour)
    for_days = visited.visited(NOW + 100 * hour)
    assert for_days.expires_at() == NOW + VISITED_AT_MOST + idle
    assert for_days.used(NOW + 90 * hour).expires_at() == NOW + 100 * hour + idle
    before = environment(R).visited(NOW).used(NOW + hour)
    assert before.expires_at() == NOW + hour + idle
