# SPDX-License-Identifier: Apache-2.0
"""The settings of environments and machines, and the runtimes' default install commands. Pure.

`waggle.config.sections` includes the sections. An install command is the words before the packages;
settings may replace it. The commands run as root, also in images that are not waggle's, so they
detect what is installed.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from pydantic import BeforeValidator

from waggle.config.base import Section, Whole, setting
from waggle.config.parsers import Duration, OptionalPath, Program, Programs, WarmPoolSizes, lower
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


class MachineSection(Section):
    """Virtual machines."""

    hypervisor: Annotated[Literal["auto", "krun", "qemu"], BeforeValidator(lower)] = setting(
        "auto", "What runs the machines; `auto` takes libkrun where it is usable, else QEMU."
    )
    libkrun_path: OptionalPath = setting(
        "", "The libkrun library, 1.17 or later and below 2; nothing means the loader's own."
    )
    libkrunfw_path: OptionalPath = setting(
        "",
        "The libkrunfw library, 5.x, that `waggle setup` takes the guest kernel from; nothing "
        "means the Debian package.",
    )
    accel: Annotated[Literal["auto", "kvm", "tcg"], BeforeValidator(lower)] = setting(
        "auto",
        "Hardware virtualisation (`kvm`) or emulation (`tcg`); `auto` takes KVM where usable.",
    )
    qemu_binary: Program = setting("qemu-system-x86_64", "The QEMU program.")
    qemu_older: Programs = setting(
        "",
        "Other QEMU programs. Paused environments and snapshots go on only with the very QEMU that "
        "made them: when you upgrade, keep the old one, with its files, and name it here.",
    )
    templates: Annotated[Literal["on", "built", "off"], BeforeValidator(lower)] = setting(
        "on",
        "Whether QEMU's machines go on from frozen ones instead of booting: `on` makes what is "
        "missing in the background, `built` uses what is there and makes none, `off` uses none.",
    )
    template_sharing: Annotated[Literal["all", "owner"], BeforeValidator(lower)] = setting(
        "all",
        "Whose machines go on from the same template, and so share its memory until they write: "
        "those of `all`, or of one `owner` only, who then waits for a boot the first time. With "
        "`owner`, machines of the warm pool boot.",
    )
    prefer: Annotated[Literal["isolation", "speed"], BeforeValidator(lower)] = setting(
        "isolation",
        "What `WAGGLE_HYPERVISOR=auto` takes where both could run: `isolation` is libkrun, `speed` "
        "is QEMU with KVM, whose machines can be frozen.",
    )
    ssh_port_base: Whole = setting(
        "10000", "First port on 127.0.0.1 for the machines.", ge=1024, le=65_535
    )
    ssh_port_max: Whole = setting(
        "11000", "End of that range; this port is not used any more.", ge=1025, le=65_536
    )
    vm_uid_base: Whole = setting(
        "1900000000",
        "When waggle runs as root, a machine's process gets this user id plus its port.",
        ge=65_536,
        le=4_294_000_000,
    )
    vm_disk_mb_per_second: Whole = setting(
        "256",
        "MiB a second that one machine may read from the host's disk, and as many that it may "
        "write, where the host has cgroup v2; 0 means no limit.",
        ge=0,
        le=1_000_000,
    )


_PIP = """\
import importlib.util, os, pwd, shutil, sys, sysconfig
mine = sys.executable
where = "/home/sandbox"
words = ["--user"]
if sys.prefix != sys.base_prefix:
    where = sysconfig.get_path("purelib")
    words = []
owner = os.stat(where)
if owner.st_uid:
    os.setgroups([owner.st_gid])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    home = "/home/sandbox"
    try:
        at = pwd.getpwuid(owner.st_uid).pw_dir
        home = at if os.stat(at).st_uid == owner.st_uid else home
    except (KeyError, OSError):
        pass
    os.environ["HOME"] = home
base = getattr(sys, "_base_executable", mine)
pip = [base, "-m", "pip", "--python", mine, "--no-input"]
if importlib.util.find_spec("pip"):
    pip = [mine, "-m", "pip", "--no-input"]
elif shutil.which("uv"):
    pip = [shutil.which("uv"), "pip"]
os.chdir("/")
os.execv(pip[0], [*pip, "install", *words, *sys.argv[1:]])
"""
"""Installs for the user or, where PATH begins with a virtual environment, into that as its owner.

One without pip of its own, as uv makes them, is served by uv or by the pip it was made from.
"""
_APT = """\
if command -v apk >/dev/null; then exec apk add --no-cache -- "$@"; fi
mkdir -p /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man7 /usr/share/man/man8
try() { apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=60 -- "$@"; }
if ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1; then try "$@" && exit; fi
rm -rf /var/lib/apt/lists/*
apt-get update -q && try "$@"
"""
"""Lists that are there may be too old for what is in the archive now, so they are fetched again.

Packages put links to manual pages where small images have no directory.
"""

PYTHON = f"python3 -Ic {shlex.quote(_PIP)} {{packages}}"
NODE = "npm install --prefix /home/sandbox --no-audit --no-fund {packages}"
SHELL = f"sh -c {shlex.quote(_APT)} install {{packages}}"
