# SPDX-License-Identifier: Apache-2.0
"""The environment: one throw-away machine, what belongs to it, and the states of its life.

Pure: time arrives as an argument, ids are given. `waggle.service` changes environments,
`waggle.infra.store` keeps their records. Only `TRANSITIONS` lists the legal moves between states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from waggle.domain.errors import Busy, InvalidArgument, InvalidTransition, NotRunning
from waggle.domain.exposure import ExposedPort
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.network import Network
from waggle.domain.programs import HOME
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.secrets.held import NO_SECRETS, HeldSecrets

VISITED_AT_MOST = timedelta(hours=12)
"""How long after its last call visitors of its ports keep an environment in use."""
MIN_TIMEOUT_MINUTES = 1
MAX_TIMEOUT_MINUTES = 60
MAX_GRACE = 30
"""Seconds that programs may have to end before their environment is destroyed."""


class State(StrEnum):
    """The state of an environment.

    A PAUSED one has a machine paused in memory, or its state on the disk and no machine.
    """

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    RESUMING = "resuming"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"
    ERROR = "error"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATING: frozenset({State.RUNNING, State.DESTROYING, State.ERROR}),
    State.RUNNING: frozenset({State.PAUSED, State.DESTROYING, State.ERROR}),
    State.PAUSED: frozenset({State.RESUMING, State.DESTROYING, State.ERROR}),
    State.RESUMING: frozenset({State.RUNNING, State.PAUSED, State.DESTROYING, State.ERROR}),
    State.ERROR: frozenset({State.DESTROYING}),
    State.DESTROYING: frozenset({State.DESTROYED, State.ERROR}),
    State.DESTROYED: frozenset(),
}

HOLDING_STATES = frozenset({State.CREATING, State.RUNNING, State.RESUMING, State.DESTROYING})
"""States that always count towards the capacity; others count while a machine still exists."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The environment that another was forked of, its name then, and a name for that fork call."""

    id: str
    name: str
    call: str


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment. Immutable: every change returns a new value.

    `ssh_port` and `machine` are set exactly while a machine may exist: from the end of its boot
    until it is known to be gone. `active_calls` counts calls in progress; an environment with one
    is never idle, nor is one that runs with `running_jobs`. `last_job` is the highest number that
    a job of it ever had. `directory` is where programs start. `error` says why it failed or ended,
    and may be shown to its owner. `paused_until` is set while its state is on the disk. `notice` is
    a text for its owner, not recorded. `last_visited_at` is when a client was last connected to one
    of its exposed ports. `variables` are for all its programs, `packages` were requested when it
    was created. `registries` are the rules, as texts, that @packages stands
    for in its image; None if it was not asked. `fork_of` is set for forks. `exposed` has its
    exposed ports, oldest first, also while it is paused. `hypervisor` is the name of the one that
    runs it as long as it exists; empty means the server's first.
    """

    id: str
    name: str
    runtime: RuntimeName
    image: str
    owner: str
    resources: Resources
    network: Network
    idle_timeout: timedelta
    created_at: datetime
    last_used_at: datetime
    state: State = State.CREATING
    ssh_port: int | None = None
    machine: VmmProcess | None = None
    booted_from: dict[str, str] = field(default_factory=dict[str, str])
    error: str | None = None
    active_calls: int = 0
    running_jobs: int = 0
    last_job: int = 0
    directory: str = HOME
    paused_until: datetime | None = None
    last_visited_at: datetime | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    packages: tuple[str, ...] = ()
    notice: str | None = None
    fork_of: Origin | None = None
    exposed: tuple[ExposedPort, ...] = ()
    secrets: HeldSecrets = NO_SECRETS
    registries: tuple[str, ...] | None = None
    hypervisor: str = ""

    def copy(self, environment_id: str, now: datetime, call: str) -> Environment:
        """Return a fork of this one, of the same owner, that is to be created in that call."""
        return Environment(
            id=environment_id,
            name=f"{self.runtime}-{environment_id[:8]}",
            runtime=self.runtime,
            image=self.image,
            owner=self.owner,
            resources=self.resources,
            network=self.network,
            idle_timeout=self.idle_timeout,
            created_at=now,
            last_used_at=now,
            variables=self.variables,
            packages=self.packages,
            registries=self.registries,
            secrets=self.secrets,
            hypervisor=self.hypervisor,
            fork_of=Origin(self.id, self.name, call),
        )

    def is_replaced_with(self, fork: Environment) -> bool:
        """Whether keeping that fork destroys this one: its original, or a fork of the same call."""
        origin = fork.fork_of
        if origin is None or self.id == fork.id:
            return False
        return self.id == origin.id or (
            self.fork_of is not None and self.fork_of.call == origin.call
        )

    def to(self, state: State, *, error: str | None = None) -> Environment:
        """Move to `state` with cause `error`; without one, an earlier cause stays.

        Raises InvalidTransition when the state machine has no such move.
        """
        if state not in TRANSITIONS[self.state]:
            raise InvalidTransition(
                f"Environment {self.id} cannot go from {self.state} to {state}."
            )
        cause = self.error if error is None else error
        return replace(self, state=state, error=cause, notice=None)

    def with_machine(
        self,
        machine: VmmProcess,
        *,
        ssh_port: int,
        booted_from: Mapping[str, str],
        directory: str = HOME,
    ) -> Environment:
        """Set the machine that was booted for it, which must be freed from now on."""
        return replace(
            self,
            machine=machine,
            ssh_port=ssh_port,
            booted_from=dict(booted_from),
            directory=directory,
        )

    def without_machine(self) -> Environment:
        """Remove its machine and port, which are gone; the digests that it booted from stay."""
        return replace(self, machine=None, ssh_port=None)

    @property
    def holds_capacity(self) -> bool:
        """Whether it takes one of the operator's slots."""
        return self.state in HOLDING_STATES or self.machine is not None

    def after_restart(self) -> Environment:
        """Return it as a new server finds its record: no call is in progress."""
        return replace(self, active_calls=0, running_jobs=0)

    def paused_to_disk(self, until: datetime) -> Environment:
        """Pause it to disk: its machine is gone, and its state is kept until then."""
        return replace(self.without_machine(), paused_until=until, notice=None)

    def noticing(self, notice: str | None) -> Environment:
        """Set the notice for its owner; a change of state removes it."""
        return replace(self, notice=notice)

    def has_other_notice_than(self, before: Environment) -> bool:
        """Whether its notice differs from that of then in more than numbers, such as a size."""
        then, now = (re.sub(r"\d+", "", one.notice or "") for one in (before, self))
        return then != now

    def resumed(self, now: datetime) -> Environment:
        """Make it run again; its idle time starts anew."""
        return replace(self.to(State.RUNNING), paused_until=None).used(now)

    @property
    def is_on_disk(self) -> bool:
        """Whether it is paused to disk, without a machine."""
        return self.state is State.PAUSED and self.machine is None

    def require_quiet(self) -> None:
        """Raise Busy while calls are in progress; jobs continue with their machine."""
        if self.active_calls:
            raise Busy(f"Environment {self.id} has {self.active_calls} calls in progress.")

    def require_running(self) -> None:
        """Raise NotRunning unless calls can be served now."""
        self.require(State.RUNNING)

    def require(self, state: State) -> None:
        """Raise NotRunning unless it is in that state."""
        if self.state is not state:
            detail = f": {self.error}" if self.error else ""
            raise NotRunning(f"Environment {self.id} is {self.state}{detail}.")

    def call_started(self, now: datetime) -> Environment:
        """Count a call that began: it is in use until the matching `call_ended`."""
        return replace(self.used(now), active_calls=self.active_calls + 1)

    def call_ended(self, now: datetime) -> Environment:
        """Count the end of a call; idle time counts from here. Raises InvalidTransition."""
        if self.active_calls < 1:
            raise InvalidTransition(f"Environment {self.id} has no call in progress.")
        return replace(self.used(now), active_calls=self.active_calls - 1)

    def with_jobs(self, count: int, last: int, now: datetime) -> Environment:
        """Set how many jobs run in it, and the last number; idle time counts from the last end."""
        return replace(self.used(now), running_jobs=count, last_job=max(last, self.last_job))

    def used(self, now: datetime) -> Environment:
        """Record a use: idle time counts from here."""
        return replace(self, last_used_at=max(now, self.last_used_at))

    def visited(self, now: datetime) -> Environment:
        """Record a connection to a port: a use, until VISITED_AT_MOST after the last call."""
        return replace(self, last_visited_at=now)

    def extended(self, idle_timeout: timedelta, now: datetime) -> Environment:
        """Set how long it may stay unused, counted from now on."""
        return replace(self.used(now), idle_timeout=idle_timeout)

    @property
    def is_in_use(self) -> bool:
        """Whether it is not idle: a call is in progress, or it runs and a job does."""
        return self.active_calls > 0 or (self.state is State.RUNNING and self.running_jobs > 0)

    def expires_at(self) -> datetime:
        """Return when it will have been idle or paused for too long, unless used before."""
        if self.paused_until is not None:
            return self.paused_until
        visited = min(
            self.last_visited_at or self.last_used_at, self.last_used_at + VISITED_AT_MOST
        )
        return max(self.last_used_at, visited) + self.idle_timeout

    def is_expired(self, now: datetime) -> bool:
        """Whether the reaper should remove it: unused, past its idle time and not about to end.

        One that failed and still has its machine is overdue at once: it serves no client and holds
        a slot, because destroying it failed before.
        """
        if self.state is State.ERROR and self.machine is not None:
            return True
        reapable = self.state in (State.RUNNING, State.PAUSED, State.ERROR)
        return reapable and not self.is_in_use and now >= self.expires_at()


def parse_timeout(minutes: int, name: str = "timeout_minutes") -> timedelta:
    """Return the idle timeout of parameter `name`. Raises InvalidArgument outside 1 to 60."""
    if not MIN_TIMEOUT_MINUTES <= minutes <= MAX_TIMEOUT_MINUTES:
        raise InvalidArgument(
            f"{name} must be {MIN_TIMEOUT_MINUTES} to {MAX_TIMEOUT_MINUTES}.",
            hint="Every call restarts the idle time, so a long job does not need a long timeout.",
        )
    return timedelta(minutes=minutes)


def parse_grace(seconds: int) -> float:
    """Return the seconds that programs have before a destroy. Raises InvalidArgument."""
    if not 0 <= seconds <= MAX_GRACE:
        raise InvalidArgument(
            f"grace_seconds must be 0 to {MAX_GRACE}.", hint="0 ends the environment at once."
        )
    return float(seconds)
