# SPDX-License-Identifier: Apache-2.0
"""Every environment is read back from its row unchanged, except for calls in progress."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.environment import Environment, Origin, State
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.store.database import migrate
from waggle.infra.store.environments import _SAVE, Value, from_row, to_row

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
    fork_of=st.none() | st.builds(Origin, texts, texts, texts),
)


@given(environments)
def test_an_environment_survives_a_round_trip_through_the_schema(environment: Environment) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        migrate(connection)
        connection.execute(_SAVE, to_row(environment))
        row = connection.execute("SELECT * FROM environments").fetchone()
    finally:
        connection.close()
    found = from_row(cast("dict[str, Value]", dict(row)))
    assert found == replace(environment, active_calls=0)
    assert found.created_at.utcoffset() == environment.created_at.utcoffset()
