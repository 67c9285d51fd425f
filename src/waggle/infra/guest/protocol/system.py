# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of an agent and of its machine: the methods that change nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.infra.guest.protocol.fields import (
    MAX_ID,
    MAX_PATH,
    MAX_SECONDS,
    Count,
    Message,
    Name,
    Part,
    Result,
    Seconds,
    Text,
    Time,
)

Version = Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]
Id = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Field(max_length=MAX_ID)]
"""The id of a request. A text has at most so many bytes of UTF-8."""
MountPoint = Annotated[str, Field(max_length=MAX_PATH)]
Load = Annotated[list[Seconds], Field(min_length=3, max_length=3)]


class Nothing(Message):
    """No parameters: `{}`, or none at all."""


class Done(Result):
    """It is done, and there is nothing to say."""


class GetAgentInfo(Message):
    """`protocol` is the version that the host wants to speak, as `1.0`."""

    protocol: Version | None = None


class Rule(Part):
    """A program that may be run; `arguments` are shell patterns, and a last `**` is any rest."""

    path: MountPoint
    arguments: Annotated[list[Text], Field(max_length=64)]


class Paths(Part):
    """Directories below which paths are allowed, and those that are denied all the same."""

    allow: Annotated[list[MountPoint], Field(max_length=64)]
    deny: Annotated[list[MountPoint], Field(max_length=64)]


class Limits(Part):
    """The limits in force: bytes of one call, seconds of one program, numbers at the same time."""

    read_bytes: Count
    write_bytes: Count
    output_bytes: Count
    timeout_seconds: Annotated[int, Field(ge=0, le=MAX_SECONDS)]
    requests: Count
    processes: Count


class PolicyInfo(Part):
    """The policy in force: what all policy files together allow. `exec` is null: no program."""

    read: Paths
    write: Paths
    exec: Annotated[list[Rule], Field(max_length=64)] | None
    users: Annotated[list[Name], Field(max_length=64)]
    limits: Limits


class AgentInfo(Result):
    """The agent, the protocol that it will speak, and what it is allowed to do.

    `pending` are the ids of the requests that it has begun and not answered, without this one.
    """

    agent: Name
    version: Name
    protocol: Version
    supported: Annotated[list[Version], Field(min_length=1, max_length=16)]
    methods: Annotated[list[Name], Field(max_length=64)]
    capabilities: Annotated[list[Name], Field(max_length=64)]
    policy: PolicyInfo
    pending: Annotated[list[Id], Field(max_length=256)]


class AgentStarted(Result):
    """The agent has opened its port, or takes the host for one that does not know of it yet."""

    version: Name


class Os(Part):
    """From os-release(5); empty where that says nothing."""

    id: Text
    name: Text
    version: Text
    pretty_name: Text


class SystemInfo(Result):
    """The operating system and the machine. `uptime` is in seconds, `time` now."""

    os: Os
    kernel: Text
    architecture: Name
    hostname: Name
    cpus: Count
    memory_bytes: Count
    uptime: Seconds
    boot_id: Name
    time: Time


class Interface(Part):
    """A network interface. `addresses` are in CIDR notation."""

    name: Name
    mac: Name
    mtu: Count
    is_up: bool
    addresses: Annotated[list[Name], Field(max_length=32)]


class NetworkInfo(Result):
    """The network interfaces; `truncated` if there are more of anything than fit."""

    interfaces: Annotated[list[Interface], Field(max_length=64)]
    truncated: bool


class Filesystem(Part):
    """A mounted file system that has a size. `available_bytes` is for users other than root."""

    source: MountPoint
    mount_point: MountPoint
    type: Name
    read_only: bool
    total_bytes: Count
    used_bytes: Count
    available_bytes: Count
    inodes: Count
    inodes_free: Count


class DiskUsage(Result):
    """The mounted file systems, each once."""

    filesystems: Annotated[list[Filesystem], Field(max_length=64)]
    truncated: bool


class Cpu(Part):
    """Seconds of all processors since the start, from proc_stat(5)."""

    user: Seconds
    system: Seconds
    idle: Seconds
    iowait: Seconds
    steal: Seconds


class Memory(Part):
    """Bytes, from proc_meminfo(5)."""

    total_bytes: Count
    available_bytes: Count
    free_bytes: Count
    cached_bytes: Count
    swap_total_bytes: Count
    swap_free_bytes: Count


class Stall(Part):
    """Percent of the last ten seconds in which some, or all, work waited (PSI)."""

    some: Seconds
    full: Seconds


class Pressure(Part):
    """Where work waits; null where the kernel does not say."""

    cpu: Stall | None
    memory: Stall | None
    io: Stall | None


class Disk(Part):
    """Counters of a block device since the start."""

    name: Name
    reads: Count
    writes: Count
    read_bytes: Count
    written_bytes: Count


class Traffic(Part):
    """Counters of a network interface since the start."""

    name: Name
    received_bytes: Count
    sent_bytes: Count
    received_packets: Count
    sent_packets: Count
    errors: Count


class Processes(Part):
    """Numbers of processes: all, running, waiting for a device."""

    total: Count
    running: Count
    blocked: Count


class Metrics(Result):
    """Counters and gauges of the machine."""

    uptime: Seconds
    cpu: Cpu
    load: Load
    memory: Memory
    pressure: Pressure
    disks: Annotated[list[Disk], Field(max_length=64)]
    network: Annotated[list[Traffic], Field(max_length=64)]
    processes: Processes


class User(Part):
    """A user who runs programs."""

    uid: Annotated[int, Field(ge=0, le=2**32 - 1)]
    name: Name
    processes: Count


class Session(Part):
    """A login. `since` is null where nobody has noted it."""

    user: Name
    terminal: Name
    remote_host: Name
    since: Time | None


class Users(Result):
    """Who runs programs, and who is logged in."""

    users: Annotated[list[User], Field(max_length=64)]
    sessions: Annotated[list[Session], Field(max_length=64)]
    truncated: bool
