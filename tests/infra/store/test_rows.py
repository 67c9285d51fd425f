# SPDX-License-Identifier: Apache-2.0
"""Every environment is read back from its row unchanged, except for calls in progress."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from tests.infra.store.saved import environment

from waggle.domain.environment import Environment, Origin, State
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.store.database import APPLICATION_ID, MIGRATIONS, migrate
from waggle.infra.store.environments import _SAVE, Value, from_row, to_row

BEFORE_HYPERVISORS = 9
"""The schema of the last waggle that ran one hypervisor only."""
numbers = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
instants = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
)
environments = st.builds(
    Environment,
    id=st.uuids().map(str),
    name=texts,
    runtime=st.sampled_from(RuntimeName),
    image=texts,
    owner=texts,
    resources=st.builds(Resources, numbers, numbers, numbers),
    network=st.sampled_from([NO_NETWORK, PUBLIC_NETWORK, parse_network("ask, example.org")]),
    idle_timeout=st.timedeltas(timedelta(0), timedelta(days=365)),
    created_at=instants,
    last_used_at=instants,
    state=st.sampled_from(State),
    ssh_port=st.none() | st.integers(1, 65535),
    machine=st.none() | st.builds(VmmProcess, numbers, numbers, texts),
    booted_from=st.dictionaries(texts, texts, max_size=4),
    error=st.none() | texts,
    active_calls=st.integers(0, 3),
    last_job=numbers,
    hypervisor=st.sampled_from(["", "qemu", "cloud-hypervisor"]),
    fork_of=st.none() | st.builds(Origin, texts, texts, texts),
)


@given(environments)
def test_an_environment_survives_a_round_trip_through_the_schema(saved: Environment) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        migrate(connection)
        connection.execute(_SAVE, to_row(saved))
        row = connection.execute("SELECT * FROM environments").fetchone()
    finally:
        connection.close()
    found = from_row(cast("dict[str, Value]", dict(row)))
    assert found == replace(saved, active_calls=0)
    assert found.created_at.utcoffset() == saved.created_at.utcoffset()


def test_what_an_older_waggle_left_to_resume_was_made_with_qemu() -> None:
    """Libkrun could freeze nothing; what lives no more had either."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        for statement in (step for steps in MIGRATIONS[:BEFORE_HYPERVISORS] for step in steps):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {BEFORE_HYPERVISORS}")
        for number, state in enumerate(State):
            row = to_row(environment(number, state))
            del row["hypervisor"]
            columns, places = ", ".join(row), ", ".join(f":{column}" for column in row)
            connection.execute(
                f"INSERT INTO environments ({columns}, changed) VALUES ({places}, {number})",  # noqa: S608
                row,
            )
        migrate(connection)
        rows = connection.execute("SELECT * FROM environments").fetchall()
    finally:
        connection.close()
    found = [from_row(cast("dict[str, Value]", dict(row))) for row in rows]
    assert {one.state: one.hypervisor for one in found} == {
        state: "" if state is State.DESTROYED else "qemu" for state in State
    }
    assert [replace(one, hypervisor="") for one in found] == [
        environment(number, state) for number, state in enumerate(State)
    ]
