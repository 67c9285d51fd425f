# SPDX-License-Identifier: Apache-2.0
"""An Environment as a row of the state database, and back. Pure.

Calls in progress are not kept, nor where programs start: after a restart there are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta

from waggle.domain.environment import Environment, MachineIdentity, Resources, State
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName

Value = str | int | None

COLUMNS = (
    "id", "name", "runtime", "image", "owner", "state", "cpus", "memory_mib", "disk_mib",
    "network", "idle_us", "created_at", "last_used_at", "ssh_port", "machine", "booted_from",
    "error", "paused_until", "variables", "packages",
)  # fmt: skip

_MICROSECOND = timedelta(microseconds=1)


def to_row(environment: Environment) -> dict[str, Value]:
    """The values of COLUMNS."""
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
        "network": environment.network.value,
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
    }


def from_row(row: Mapping[str, Value]) -> Environment:
    """The environment that a row describes. Raises ValueError, KeyError or TypeError if none."""
    machine = row["machine"]
    error = row["error"]
    port = row["ssh_port"]
    until = row["paused_until"]
    return Environment(
        id=str(row["id"]),
        name=str(row["name"]),
        runtime=RuntimeName(str(row["runtime"])),
        image=str(row["image"]),
        owner=str(row["owner"]),
        state=State(str(row["state"])),
        resources=Resources(_int(row["cpus"]), _int(row["memory_mib"]), _int(row["disk_mib"])),
        network=NetworkPolicy(str(row["network"])),
        idle_timeout=_int(row["idle_us"]) * _MICROSECOND,
        created_at=datetime.fromisoformat(str(row["created_at"])),
        last_used_at=datetime.fromisoformat(str(row["last_used_at"])),
        ssh_port=None if port is None else _int(port),
        machine=None if machine is None else _machine(str(machine)),
        booted_from={str(k): str(v) for k, v in json.loads(str(row["booted_from"])).items()},
        error=None if error is None else str(error),
        paused_until=None if until is None else datetime.fromisoformat(str(until)),
        variables={str(k): str(v) for k, v in json.loads(str(row["variables"])).items()},
        packages=tuple(str(each) for each in json.loads(str(row["packages"]))),
    )


def _machine_json(machine: MachineIdentity) -> str:
    fields = {"pid": machine.pid, "started": machine.started, "boot_id": machine.boot_id}
    return json.dumps(fields)


def _machine(text: str) -> MachineIdentity:
    fields = json.loads(text)
    return MachineIdentity(int(fields["pid"]), int(fields["started"]), str(fields["boot_id"]))


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value


def _storable(text: str) -> str:
    """`text` without lone surrogates, which SQLite does not store."""
    return text.encode("utf-8", "replace").decode("utf-8")
