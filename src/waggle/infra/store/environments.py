# SPDX-License-Identifier: Apache-2.0
"""The records of environments and of calls with an idempotency key in the state database.

Implements `waggle.domain.observer.EnvironmentStore` and `waggle.domain.access.CallStore`. Opened by
the composition root and by the CLI's read-only commands. An environment's calls in progress and the
directory where its programs start are not stored: after a restart there are none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from waggle.domain.access import KEEP, KEEP_BYTES_PER_OWNER, KEEP_PER_OWNER, KeyedCall, KnownCall
from waggle.domain.environment import Environment, Origin, State
from waggle.domain.exposure import ExposedPort
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.network import recorded_network
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.secrets.held import held_in
from waggle.infra.store.database import Database, corrupt

Value = str | int | None

COLUMNS = (
    "id", "name", "runtime", "image", "owner", "state", "cpus", "memory_mib", "disk_mib",
    "network", "idle_us", "created_at", "last_used_at", "ssh_port", "machine", "booted_from",
    "error", "paused_until", "variables", "packages", "last_job", "fork_of", "exposed",
    "registries", "secrets", "hypervisor",
)  # fmt: skip

_MICROSECOND = timedelta(microseconds=1)


def to_row(environment: Environment) -> dict[str, Value]:
    """Return the values of COLUMNS. Pure."""
    machine = environment.machine
    return {
        "id": environment.id,
        "name": environment.name,
        "runtime": environment.runtime.value,
        "image": environment.image,
        "owner": environment.owner,
        "state": environment.state.value,
        "cpus": environment.resources.cpus,
        "memory_mib": environment.resources.memory_mib,
        "disk_mib": environment.resources.disk_mib,
        "network": str(environment.network),
        "idle_us": environment.idle_timeout // _MICROSECOND,
        "created_at": environment.created_at.isoformat(),
        "last_used_at": environment.last_used_at.isoformat(),
        "ssh_port": environment.ssh_port,
        "machine": None if machine is None else _machine_json(machine),
        "booted_from": json.dumps(environment.booted_from),
        "error": None if environment.error is None else _storable(environment.error),
        "paused_until": environment.paused_until and environment.paused_until.isoformat(),
        "variables": json.dumps(dict(environment.variables)),
        "packages": json.dumps(environment.packages),
        "last_job": environment.last_job,
        "hypervisor": environment.hypervisor,
        "fork_of": environment.fork_of and json.dumps(asdict(environment.fork_of)),
        "exposed": json.dumps([[one.port, one.local_port, one.key] for one in environment.exposed]),
        "secrets": json.dumps(environment.secrets.facts()) if environment.secrets else None,
        "registries": None
        if environment.registries is None
        else json.dumps(environment.registries),
    }


def from_row(row: Mapping[str, Value]) -> Environment:
    """Return a row's environment. Pure. Raises ValueError, KeyError or TypeError if damaged."""
    machine = row["machine"]
    error = row["error"]
    port = row["ssh_port"]
    until = row["paused_until"]
    origin = row["fork_of"]
    registries = row["registries"]
    secrets = row["secrets"]
    return Environment(
        id=str(row["id"]),
        name=str(row["name"]),
        runtime=RuntimeName(str(row["runtime"])),
        image=str(row["image"]),
        owner=str(row["owner"]),
        state=State(str(row["state"])),
        resources=Resources(_int(row["cpus"]), _int(row["memory_mib"]), _int(row["disk_mib"])),
        network=recorded_network(str(row["network"])),
        idle_timeout=_int(row["idle_us"]) * _MICROSECOND,
        created_at=datetime.fromisoformat(str(row["created_at"])),
        last_used_at=datetime.fromisoformat(str(row["last_used_at"])),
        ssh_port=None if port is None else _int(port),
        machine=None if machine is None else _machine(str(machine)),
        booted_from={str(k): str(v) for k, v in json.loads(str(row["booted_from"])).items()},
        error=None if error is None else str(error),
        paused_until=None if until is None else datetime.fromisoformat(str(until)),
        variables={str(k): str(v) for k, v in json.loads(str(row["variables"])).items()},
        packages=tuple(str(package) for package in json.loads(str(row["packages"]))),
        last_job=_int(row["last_job"]),
        hypervisor=str(row["hypervisor"]),
        fork_of=None if origin is None else _origin(str(origin)),
        exposed=tuple(
            ExposedPort(int(port), int(local), str(key))
            for port, local, key in json.loads(str(row["exposed"]))
        ),
        secrets=held_in(None if secrets is None else json.loads(str(secrets))),
        registries=None if registries is None else tuple(map(str, json.loads(str(registries)))),
    )


def _machine_json(machine: VmmProcess) -> str:
    return json.dumps({"pid": machine.pid, "started": machine.started, "boot_id": machine.boot_id})


def _machine(text: str) -> VmmProcess:
    fields = json.loads(text)
    return VmmProcess(int(fields["pid"]), int(fields["started"]), str(fields["boot_id"]))


def _origin(text: str) -> Origin:
    fields = json.loads(text)
    return Origin(str(fields["id"]), str(fields["name"]), str(fields["call"]))


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value


def _storable(text: str) -> str:
    """Return `text` without lone surrogates, which SQLite does not store."""
    return text.encode("utf-8", "replace").decode("utf-8")


KEEP_DESTROYED = 1_000

_SAVE = f"""
    INSERT OR REPLACE INTO environments ({", ".join(COLUMNS)}, changed)
    VALUES ({", ".join(f":{column}" for column in COLUMNS)},
            (SELECT coalesce(max(changed), 0) + 1 FROM environments))
"""  # noqa: S608 - the columns are constants
_PRUNE = """
    DELETE FROM environments WHERE state = 'destroyed' AND changed <= (
        SELECT changed FROM environments WHERE state = 'destroyed'
        ORDER BY changed DESC LIMIT 1 OFFSET ?)
"""


class SqliteStore:
    """The environments of one database, which the caller closes. Raises errors of `Database`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or create the database at `path`; the caller must `aclose` the store."""
        return cls(await Database.open(path))

    async def save(self, environment: Environment) -> None:
        """Insert or replace a record; delete the oldest destroyed ones beyond KEEP_DESTROYED."""
        row = to_row(environment)
        await self.database.write(lambda connection: _save(connection, row))

    async def get(self, environment_id: str) -> Environment | None:
        """Return the record with this id, also of a destroyed environment while it is kept."""
        found = await self._select("SELECT * FROM environments WHERE id = ?", environment_id)
        return found[0] if found else None

    async def unfinished(self) -> Sequence[Environment]:
        """Return all records that are not destroyed, in the order of their last change."""
        query = "SELECT * FROM environments WHERE state != ? ORDER BY changed"
        return await self._select(query, State.DESTROYED.value)

    async def aclose(self) -> None:
        """Close the database. Idempotent; finishes when cancelled."""
        await self.database.aclose()

    async def _select(self, query: str, argument: str) -> list[Environment]:
        rows = await self.database.read(query, (argument,))
        try:
            return [from_row(cast("dict[str, Value]", dict(row))) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            path = self.database.path
            raise corrupt(path, f"a record cannot be read ({error})") from error


def _save(connection: sqlite3.Connection, row: dict[str, Value]) -> None:
    connection.execute(_SAVE, row)
    if row["state"] == State.DESTROYED.value:
        connection.execute(_PRUNE, (KEEP_DESTROYED,))


_FIND = "SELECT fingerprint, result FROM calls WHERE owner = ? AND key = ? AND started_at > ?"
_FORGET_OLD = "DELETE FROM calls WHERE started_at <= ?"
_FORGET_MANY = """
    DELETE FROM calls WHERE owner = ?1 AND key IN (
        SELECT key FROM calls WHERE owner = ?1 ORDER BY started_at DESC LIMIT -1 OFFSET ?2)
"""
_BEGIN = "INSERT OR REPLACE INTO calls (owner, key, fingerprint, started_at) VALUES (?, ?, ?, ?)"
_FINISH = "UPDATE calls SET result = ?3, size = ?4 WHERE owner = ?1 AND key = ?2"
_FORGET_MUCH = """
    DELETE FROM calls WHERE owner = ?1 AND key IN (
        SELECT key FROM (
            SELECT key, size, sum(size) OVER (ORDER BY started_at DESC, key DESC) AS newer
            FROM calls WHERE owner = ?1 AND key <> ?2)
        WHERE size > 0 AND newer > ?3)
"""
_FORGET = "DELETE FROM calls WHERE owner = ? AND key = ?"


class SqliteCalls:
    """Keyed calls of one database. `now` returns seconds since the epoch.

    `keep_bytes` bounds the total size of an owner's results; the newest is kept whatever its size.
    Raises the errors of `Database`.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], float],
        *,
        keep_bytes: int = KEEP_BYTES_PER_OWNER,
    ) -> None:
        self._database = database
        self._now = now
        self._keep_bytes = keep_bytes

    async def find(self, call: KeyedCall) -> KnownCall | None:
        """Return the record of a call unless it is older than KEEP."""
        oldest = self._now() - KEEP.total_seconds()
        rows = await self._database.read(_FIND, (call.owner, call.key, oldest))
        return KnownCall(rows[0]["fingerprint"], rows[0]["result"]) if rows else None

    async def begin(self, call: KeyedCall) -> None:
        """Record a call; delete records older than KEEP, and an owner's oldest."""
        now = self._now()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_FORGET_OLD, (now - KEEP.total_seconds(),))
            connection.execute(_FORGET_MANY, (call.owner, KEEP_PER_OWNER - 1))
            connection.execute(_BEGIN, (call.owner, call.key, call.fingerprint, now))

        await self._database.write(work)

    async def finish(self, call: KeyedCall, result: str) -> None:
        """Record a result; delete an owner's calls with the oldest results, not unfinished ones."""
        size = len(result.encode("utf-8"))

        def work(connection: sqlite3.Connection) -> None:
            place = (call.owner, call.key)
            connection.execute(_FORGET_MUCH, (*place, self._keep_bytes - size))
            connection.execute(_FINISH, (*place, result, size))

        await self._database.write(work)

    async def forget(self, call: KeyedCall) -> None:
        """Delete the record of a call."""
        place = (call.owner, call.key)
        await self._database.write(lambda connection: connection.execute(_FORGET, place))
