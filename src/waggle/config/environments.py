# SPDX-License-Identifier: Apache-2.0
"""The settings of environments, their machines and their network.

Joined with the other sections by `waggle.config`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from waggle.config.lists import Hypervisors, Networks, NetworkValue, Ports, Programs, WarmPoolSizes
from waggle.config.parsers import (
    Duration,
    OptionalPath,
    Program,
    Rate,
    Section,
    Whole,
    lower,
    setting,
)
from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.domain.network import PACKAGES, Network
from waggle.domain.network.bounds import beyond, narrowed
from waggle.domain.network.judging import WEB
from waggle.domain.programs.runtime import RuntimeName


class EnvironmentSection(Section):
    """Environments."""

    max_environments: Whole = setting("10", "Environments that exist at once.", ge=1, le=1000)
    default_cpus: Whole = setting("1", "Virtual CPUs of an environment.", ge=1, le=16)
    default_memory_mb: Whole = setting("512", "Memory of an environment in MiB.", ge=128, le=65_536)
    scratch_mb: Whole = setting(
        "4096", "Writable disk of an environment in MiB; it is sparse.", ge=64, le=1_048_576
    )
    max_cpus: Whole = setting(
        "4", "Virtual CPUs that the creator of an environment may ask for.", ge=1, le=64
    )
    max_memory_mb: Whole = setting(
        "4096",
        "Memory in MiB that the creator of an environment may ask for. One with more than "
        "`WAGGLE_DEFAULT_MEMORY_MB` counts as several environments.",
        ge=128,
        le=1_048_576,
    )
    max_disk_mb: Whole = setting(
        "16384",
        "Writable disk in MiB that the creator of an environment may ask for.",
        ge=64,
        le=1_048_576,
    )
    default_runtime: Annotated[RuntimeName, lower] = setting(
        "data",
        "Runtime of an environment that `execute`, `write_file` or `install_packages` makes when "
        "it is called without one and needs no other.",
    )
    default_timeout_min: Whole = setting(
        "30",
        "Minutes without use after which an environment is paused or removed, unless its creator "
        "says.",
        ge=MIN_TIMEOUT_MINUTES,
        le=MAX_TIMEOUT_MINUTES,
    )
    default_network: NetworkValue = setting(
        "public",
        "What an environment may reach, unless its creator says. Where you do not set it, and "
        "`WAGGLE_MAX_NETWORK` allows less, it is the same as that.",
    )
    warm_pool: WarmPoolSizes = setting(
        "",
        "How many machines of each runtime are kept running for environments to come; see "
        "[snapshots.md](snapshots.md#warm-pool). They count as environments.",
    )
    boot_timeout: Duration = setting("2m", "A machine that is not ready by then has failed.")
    reaper_interval: Duration = setting("1m", "How often unused environments are looked for.")
    idle_action: Annotated[Literal["pause", "destroy"], lower] = setting(
        "pause",
        "What becomes of an unused environment: `pause` keeps its state on the disk, or, while "
        "there is no room for that, in memory, and any call resumes it. With a hypervisor that "
        "cannot pause to disk, such as libkrun, and with `destroy`, it is removed.",
    )
    paused_keep: Duration = setting(
        "24h",
        "How long an unused environment is kept paused, unless it is used; then it is removed.",
    )
    max_paused: Whole = setting(
        "20",
        "Environments of one owner whose state is on the disk at once. 0: none is paused to disk, "
        "and unused ones are removed.",
        ge=0,
        le=10_000,
    )
    max_snapshots: Whole = setting("10", "Snapshots that one owner may keep.", ge=0, le=10_000)
    snapshot_keep: Duration = setting("24h", "How long a snapshot is kept.")


class MachineSection(Section):
    """Virtual machines."""

    hypervisor: Hypervisors = setting(
        "auto",
        "What runs the machines, in order: the first runs new environments, another one those that "
        "ask for what the first cannot do, or that were made with it. `auto` takes all that are "
        "usable but Cloud Hypervisor; see [hypervisors.md](hypervisors.md#which-one-is-used).",
    )
    libkrun_path: OptionalPath = setting(
        "", "The libkrun library, 1.17 or later and below 2; nothing means the loader's own."
    )
    libkrunfw_path: OptionalPath = setting(
        "",
        "The libkrunfw library, 5.x, that `waggle setup` takes the guest kernel from; nothing "
        "means the Debian package.",
    )
    guest_kernel: Annotated[Literal["small", "full"], lower] = setting(
        "small",
        "The kernel of QEMU's machines: `full` has the modules that Docker and iptables want and "
        "starts a little later; run `waggle setup` after a change. libkrun's and Firecracker's is "
        "the small one, Cloud Hypervisor's the full one: with `full`, `WAGGLE_HYPERVISOR=auto` "
        "puts those first that have it. See [guest.md](guest.md#the-full-kernel).",
    )
    accel: Annotated[Literal["auto", "kvm", "tcg"], lower] = setting(
        "auto",
        "Hardware virtualisation (`kvm`) or emulation (`tcg`); `auto` takes KVM where usable.",
    )
    qemu_binary: Program = setting("qemu-system-x86_64", "The QEMU program.")
    qemu_older: Programs = setting(
        "",
        "Other QEMU programs. Paused environments and snapshots resume only with the very QEMU "
        "that made them: when you upgrade, keep the old one, with its files, and name it here.",
    )
    templates: Annotated[Literal["on", "built", "off"], lower] = setting(
        "on",
        "Whether machines resume from frozen ones instead of booting, with the first hypervisor "
        "that can: `on` makes missing ones in the background, `built` uses existing ones and makes "
        "none, `off` uses none.",
    )
    template_sharing: Annotated[Literal["all", "owner"], lower] = setting(
        "all",
        "Whose machines resume from the same template, and so share its memory until they write: "
        "those of `all`, or of one `owner` only, who then waits for a boot the first time. With "
        "`owner`, machines of the warm pool boot.",
    )
    prefer: Annotated[Literal["isolation", "speed"], lower] = setting(
        "isolation",
        "What `WAGGLE_HYPERVISOR=auto` takes first where several are usable: `isolation` is "
        "libkrun, `speed` one whose machines can be frozen. Named ones keep their order.",
    )
    ssh_port_base: Whole = setting(
        "10000", "First port on 127.0.0.1 for the machines.", ge=1024, le=65_535
    )
    ssh_port_max: Whole = setting(
        "11000", "End of that range; this port is not in it.", ge=1025, le=65_536
    )
    vm_uid_base: Whole = setting(
        "1900000000",
        "When waggle runs as root, a machine's process gets this user id plus its port. No user of "
        "the host may have these ids, nor a range of /etc/subuid: at its start, waggle ends "
        "processes that look like machines of a server that was killed.",
        ge=65_536,
        le=4_294_000_000,
    )
    vm_disk_mb_per_second: Whole = setting(
        "256",
        "MiB a second that one machine may read from the host's disk, and as many that it may "
        "write, where the host has cgroup v2, or Firecracker or Cloud Hypervisor runs it; 0 "
        "means no limit.",
        ge=0,
        le=1_000_000,
    )


class NetworkSection(Section):
    """Network of the guests."""

    egress_allow_cidrs: Networks = setting(
        "", "Networks that guests may reach although they are not public, such as a mirror's."
    )
    ask_seconds: Whole = setting(
        "45",
        "Seconds that a connection waits for a person's answer in an environment with the network "
        "`ask`. Many clients give a call up after 60.",
        ge=1,
        le=600,
    )
    ask_always: bool = setting(
        "false",
        "Whether such a person may also allow a destination for always, for all environments of "
        "the same owner.",
    )
    egress_ports: Ports = setting(
        "22,80,443,3306,5432,6379,8080,8443,9418",
        "TCP ports that rules may open to guests. `public` opens 80 and 443 of them, or all of "
        "them if you set this.",
    )
    egress_max_connections: Whole = setting(
        "128", "Connections of one environment through the proxy at once.", ge=1, le=4096
    )
    egress_owner_connections: Whole = setting(
        "4096",
        "Connections through the proxy of all environments of one owner at once; 0: no limit.",
        ge=0,
        le=1_000_000,
    )
    egress_max_mb: Whole = setting(
        "0",
        "MiB that one environment may exchange with the network, both directions together, as long "
        "as it exists and the server runs; then its connections end. 0: no limit.",
        ge=0,
        le=1_000_000_000,
    )
    egress_owner_mb: Whole = setting(
        "0",
        "MiB that all environments of one owner may exchange with the network in 24 hours; they "
        "come back evenly over that time. 0: no limit.",
        ge=0,
        le=1_000_000_000,
    )
    egress_rate: Rate = setting(
        "0",
        "Bytes a second that one environment may exchange with the network, both directions "
        "together.",
    )
    egress_total_rate: Rate = setting(
        "0",
        "Bytes a second of all environments together, which share them evenly, however many "
        "connections each has. Set it a little below the speed of the host's network.",
    )
    max_network: NetworkValue = setting(
        "public",
        "The most that any environment may reach, whatever its creator says: the same words and "
        "rules. What is not public needs a rule for its network here, too.",
    )
    network_rules: OptionalPath = setting(
        "",
        "TOML file of named rules, which creators of environments use as `@NAME`; see "
        "[network.md](network.md#named-rules). A running server takes changes by itself.",
    )
    ca_bundle: OptionalPath = setting(
        "", "PEM file with certificate authorities that guests trust in addition to their own."
    )
    secrets_file: OptionalPath = setting(
        "",
        "TOML file of secrets that guests use without seeing them (secrets.md), readable by the "
        "server's user alone; a running server takes changes by itself.",
    )

    @property
    def public_ports(self) -> frozenset[int]:
        """The ports that `public` opens without a rule."""
        listed = frozenset(self.egress_ports)
        return listed if "egress_ports" in self.model_fields_set else listed & WEB


def usual_network(settings: EnvironmentSection, maximum: Network) -> Network:
    """Return what an environment may reach unless its creator says.

    That is the setting, or the maximum if the setting was not made and goes beyond it.
    """
    if "default_network" in settings.model_fields_set:
        return settings.default_network
    return narrowed(settings.default_network, maximum)


def default_beyond(settings: EnvironmentSection, maximum: Network) -> list[str]:
    """Return the items of the default that the operator wrote and the maximum refuses."""
    is_set = "default_network" in settings.model_fields_set
    return beyond(settings.default_network, maximum) if is_set else []


def named_rules(network: Network) -> frozenset[str]:
    """Return the names in a network that the operator's file must have; not the preset's."""
    return frozenset(network.sets) - {PACKAGES}
