# SPDX-License-Identifier: Apache-2.0
"""Every `WAGGLE_*` variable, once: its type, default and meaning, in sections.

A class is a section of docs/configuration.md (its docstring is the heading); a field is a variable
(`default_cpus` is `WAGGLE_DEFAULT_CPUS`); a default is the text that an operator would write.
`waggle.config` joins the sections and adds the checks between fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from waggle import install_commands
from waggle.config_access import AccessSection, ObservationSection
from waggle.config_base import Section, Whole, setting
from waggle.config_images import (
    DefaultRegistry,
    ImagePatterns,
    Pull,
    Registries,
    RegistryMirrors,
)
from waggle.config_machines import MachineSection
from waggle.config_values import (
    AbsolutePath,
    Duration,
    ExecCommand,
    Hosts,
    ImageName,
    InstallCommand,
    Listen,
    Mirror,
    Networks,
    OptionalPath,
    OptionalToolsets,
    Origins,
    Ports,
    Toolsets,
    WarmPoolSizes,
    lower,
)
from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.domain.execution import MAX_OUTPUT
from waggle.domain.network import NetworkPolicy
from waggle.domain.runtime import RuntimeName


class ServerSection(Section):
    """Server."""

    listen_addr: Listen = setting("127.0.0.1:8080", "Where the HTTP server listens.")
    allow_remote: bool = setting(
        "false",
        "Allow a listen address that other machines can reach although nobody has to "
        "authenticate; put a proxy that checks who calls in front. Not needed with authentication.",
    )
    allowed_hosts: Hosts = setting(
        "", "Host headers that are answered, beside loopback names and the listen address."
    )
    allowed_origins: Origins = setting(
        "", "Browser origins that may call, beside those on loopback."
    )
    toolsets: Toolsets = setting(
        "core",
        "Which tools clients are shown that do not choose: the ten of `core`, all with `full`, or "
        "the named sets. Anything but `core` is also all that they can have, unless "
        "WAGGLE_TOOLSETS_ALLOWED says otherwise.",
    )
    toolsets_allowed: OptionalToolsets = setting(
        "",
        "Which tools and resources clients can have at all, those included that they choose with "
        "`/mcp?toolsets=`. Nothing: all, if WAGGLE_TOOLSETS is `core`, else what that names.",
    )
    parameter_headers: bool = setting(
        "false",
        "Have clients of MCP 2026-07-28 repeat `environment_id` in the header "
        "`Mcp-Param-Environment-Id`, for proxies that route by it. The APIs of some models refuse "
        "the word for it in the schemas of tools.",
    )
    max_sessions: Whole = setting("1000", "MCP sessions kept at once.", ge=1, le=100_000)
    session_idle_timeout: Duration = setting("30m", "An MCP session unused so long is forgotten.")
    shutdown_timeout: Duration = setting(
        "30s", "How long a stopping server waits for running calls and machines."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = (
        setting("info", "The least severe level that is logged.")
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = setting(
        "auto", "How log lines look; `auto` is `console` on a terminal, else `json`."
    )


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
        "python",
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
        "has it go on; where that cannot be (libkrun, no room), and with `destroy`, it is removed.",
    )
    paused_keep: Duration = setting(
        "24h", "How long a state on the disk is kept, unless it is used; then it is removed."
    )
    max_paused: Whole = setting(
        "20", "Environments whose state is on the disk at once.", ge=0, le=10_000
    )
    max_snapshots: Whole = setting("10", "Snapshots that one owner may keep.", ge=0, le=10_000)
    snapshot_keep: Duration = setting("24h", "How long a snapshot is kept.")


class ExecutionSection(Section):
    """Running code."""

    default_exec_timeout: Duration = setting(
        "30s",
        "How long `execute` and `run_command` wait for a program unless the caller says; then it "
        "goes on as a job.",
    )
    max_exec_timeout: Duration = setting(
        "1h", "A program is killed after so long, or earlier if the caller says."
    )
    install_timeout: Duration = setting("5m", "Time limit of `install_packages`.")
    output_limit: Whole = setting(
        "24000",
        "Characters of standard output and standard error together in one result, unless a call "
        "gives `max_output`; longer output is cut in the middle, and `read_job` has the rest.",
        ge=1000,
        le=MAX_OUTPUT,
    )
    output_keep_mb: Whole = setting(
        "8",
        "MiB kept of each output stream of a program, for `read_job`; of a longer one the "
        "beginning and the end.",
        ge=1,
        le=1024,
    )


class RuntimeSection(Section):
    """Runtimes and their images."""

    image_python: ImageName = setting("python", "Image of the python runtime.")
    image_node: ImageName = setting("node", "Image of the node runtime.")
    image_shell: ImageName = setting("shell", "Image of the shell runtime.")
    image_data: ImageName = setting(
        "data", "Image of the data runtime, which else is the python runtime."
    )
    runtime_python_exec_command: ExecCommand = setting(
        "python3 {file}", "How the python runtime runs code."
    )
    runtime_node_exec_command: ExecCommand = setting(
        "node --disable-warning=MODULE_TYPELESS_PACKAGE_JSON {file}",
        "How the node runtime runs code; both module systems work.",
    )
    runtime_shell_exec_command: ExecCommand = setting(
        "{shell} {file}",
        "How the shell runtime runs code; `{shell}` is bash where the image has it, else its sh.",
    )
    runtime_python_install_command: InstallCommand = setting(
        install_commands.PYTHON,
        "How the python and data runtimes install packages, with pip or uv, for the user or "
        "into the virtual environment that PATH begins with. Started as root.",
    )
    runtime_node_install_command: InstallCommand = setting(
        install_commands.NODE,
        "How the node runtime installs packages.",
    )
    runtime_shell_install_command: InstallCommand = setting(
        install_commands.SHELL,
        "How the shell runtime installs packages, as root: with apk where there is one, else apt.",
    )
    debian_mirror: Mirror = setting(
        "",
        "Debian archive for the kernel, the guest kit and the images. Nothing means the one in the "
        "host's apt sources, or, where they name none, mmdebstrap's own default.",
    )


class ImageSection(Section):
    """Images from registries."""

    allowed_images: ImagePatterns = setting(
        "",
        "Images that clients may name in `create_environment`, such as `registry.example/team/*`; "
        "`*` stands for text without a slash, `**` for any. Those of the runtimes always are.",
    )
    image_pull: Pull = setting(
        "missing",
        "When a create asks the registry what a tag means: `missing`, if the image is not here; "
        "a duration, also if it was asked longer ago; `always`; `never`. Digests are asked for "
        "once.",
    )
    default_registry: DefaultRegistry = setting(
        "",
        "The registry of references that name none, such as `app:tag`; a path in it goes before "
        "names without a slash. Nothing means that they are looked for on this machine only.",
    )
    insecure_registries: Registries = setting(
        "", "Registries that are spoken to in plain HTTP: who is on the way reads and writes along."
    )
    registry_mirrors: RegistryMirrors = setting(
        "", "Where to ask before the registry itself: `registry.example=mirror.example/path`."
    )
    registry_auth_file: OptionalPath = setting(
        "",
        "Credentials, as `docker login` or `podman login` write them; nothing means "
        "`~/.config/containers/auth.json`, then `~/.docker/config.json`.",
    )
    image_cache_max_mb: Whole = setting(
        "51200",
        "What images and their disks may take together, in MiB; once an hour the least recently "
        "used go. Those of the runtimes and of running environments stay. 0 means no bound.",
        ge=0,
        le=1_000_000_000,
    )


class NetworkSection(Section):
    """Network of the guests."""

    egress_allow_cidrs: Networks = setting(
        "", "Networks that guests may reach although they are not public, such as a mirror's."
    )
    egress_ports: Ports = setting("80,443", "TCP ports that guests may reach.")
    ca_bundle: OptionalPath = setting(
        "", "PEM file with certificate authorities that guests trust in addition to their own."
    )


class StorageSection(Section):
    """Where things are kept."""

    data_dir: AbsolutePath = setting(
        "", "State and running machines. One server at a time may use it."
    )
    image_cache_dir: AbsolutePath = setting(
        "",
        "Images, their disks, the guest kernel and kit: all of it can be made again, and servers "
        "may share it.",
    )
    image_cache_max_age: Duration = setting(
        "168h", "An image's root disk unused so long is removed from the cache."
    )


SECTIONS: tuple[type[Section], ...] = (
    ServerSection,
    AccessSection,
    ObservationSection,
    EnvironmentSection,
    ExecutionSection,
    RuntimeSection,
    ImageSection,
    NetworkSection,
    MachineSection,
    StorageSection,
)
"""In the order of docs/configuration.md."""
