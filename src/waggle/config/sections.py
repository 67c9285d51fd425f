# SPDX-License-Identifier: Apache-2.0
"""The sections of `WAGGLE_*` variables: the type, default and meaning of every variable.

A class is a section of docs/configuration.md, and its docstring is the heading. A field is a
variable: `default_cpus` is `WAGGLE_DEFAULT_CPUS`. A default is the text that an operator would
write. `waggle.config` joins the sections and adds the checks between fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from waggle.config import environments
from waggle.config.access import AccessSection, ObservationSection
from waggle.config.base import Section, Whole, setting
from waggle.config.environments import EnvironmentSection, MachineSection
from waggle.config.images import DefaultRegistry, ImagePatterns, Pull, Registries, RegistryMirrors
from waggle.config.parsers import (
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
    lower,
)
from waggle.domain.programs.execution import MAX_OUTPUT


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
        "",
        "Origins of web pages that may call. Browsers let no page on loopback read an answer, "
        "where guests have pages, too, unless its origin is named here.",
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
    max_sessions: Whole = setting(
        "1000",
        "MCP sessions kept at once; where tokens of several owners are accepted, one of them may "
        "have half.",
        ge=1,
        le=100_000,
    )
    session_idle_timeout: Duration = setting("30m", "An MCP session unused so long is forgotten.")
    shutdown_timeout: Duration = setting(
        "30s",
        "How long a stopping server waits for running calls; machines have ten seconds or more.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = (
        setting("info", "The least severe level that is logged.")
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = setting(
        "auto", "How log lines look; `auto` is `console` on a terminal, else `json`."
    )


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
        environments.PYTHON,
        "How the python and data runtimes install packages, with pip or uv, for the user or "
        "into the virtual environment that PATH begins with. Started as root.",
    )
    runtime_node_install_command: InstallCommand = setting(
        environments.NODE,
        "How the node runtime installs packages.",
    )
    runtime_shell_install_command: InstallCommand = setting(
        environments.SHELL,
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
        "`*` stands for text without a slash, `**` for any. Those of the runtimes always are. A "
        "registry at a private address must be named: no `*` stands for it.",
    )
    image_pull: Pull = setting(
        "missing",
        "When a create asks the registry what a tag means: `missing`, if the image is not here; "
        "a duration, also if it was asked longer ago; `always`; `never`. Digests are asked for "
        "once.",
    )
    max_pulls: Whole = setting(
        "4",
        "Images that creates pull at once; the others wait. One owner has half of the places where "
        "tokens of several are accepted.",
        ge=1,
        le=100,
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
    disk_reserve_mb: Whole = setting(
        "512",
        "MiB of the disks of both directories that are kept free: with less, environments are "
        "neither created nor copied, snapshots and pauses to disk are refused, images not pulled, "
        "and machines that met a full disk stand still until there is as much again.",
        ge=0,
        le=1_000_000_000,
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
