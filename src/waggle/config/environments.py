# SPDX-License-Identifier: Apache-2.0
"""The settings of environments: how many, how large, how long. A part of `config_sections`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from waggle.config.base import Section, Whole, setting
from waggle.config.parsers import Duration, WarmPoolSizes, lower
from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.domain.network import NetworkPolicy
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
    default_runtime: Annotated[RuntimeName, BeforeValidator(lower)] = setting(
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
    default_network: NetworkPolicy = setting(
        "public", "What an environment may reach, unless its creator says."
    )
    warm_pool: WarmPoolSizes = setting(
        "",
        "How many machines of each runtime are kept running for environments to come; see "
        "[snapshots.md](snapshots.md#warm-pool). They count as environments.",
    )
    boot_timeout: Duration = setting("2m", "A machine that is not ready by then has failed.")
    reaper_interval: Duration = setting("1m", "How often unused environments are looked for.")
    idle_action: Annotated[Literal["pause", "destroy"], BeforeValidator(lower)] = setting(
        "pause",
        "What becomes of an unused environment: `pause` keeps its state on the disk, and any call "
        "has it go on; while there is no room for that, it stands still in memory. With libkrun, "
        "which cannot pause, and with `destroy`, it is removed.",
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
