# SPDX-License-Identifier: Apache-2.0
"""The settings of runtimes, their images and registries, with the default install commands. Pure.

An install command is the words before the packages; settings may replace it. The commands run as
root, also in images that are not waggle's, so they detect what is installed.
"""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator

from waggle.config.lists import WrongItem, all_matching, split_words
from waggle.config.parsers import (
    Accepts,
    OptionalPath,
    Section,
    Whole,
    matching,
    parse_duration,
    parsed_by,
    setting,
)
from waggle.domain.errors import InvalidArgument
from waggle.domain.image import PullRule
from waggle.domain.programs.runtime import FILE, PACKAGES, parse_template
from waggle.domain.reference import check_default_registry

_PATTERN = re.compile(r"[A-Za-z0-9._/:@*\[\]-]{1,512}")
_IMAGE = re.compile(r"(?:(?:oci:)?/)?[A-Za-z0-9\[][A-Za-z0-9._/:@+\[\]-]{0,510}")
_MIRROR = re.compile(r"(?:https?|file|copy)://[!-~]+")


def parse_registries(value: str) -> frozenset[str]:
    """Read a list of registries, written as in references: `host` or `host:port`."""
    return frozenset(parse_registry(word) for word in split_words(value))


def parse_registry(word: str, why: str = "is no registry") -> str:
    """Return a registry in the spelling of references. Raises WrongItem with `why`."""
    try:
        if word and "/" not in word:
            return check_default_registry(word)
    except InvalidArgument:
        pass
    raise WrongItem(word, f"{why}; write hosts without https://" if "//" in word else why)


def parse_registry_mirrors(value: str) -> dict[str, tuple[str, ...]]:
    """Read `registry=host[:port][/path]` pairs; several of one registry keep their order."""
    mirrors: dict[str, tuple[str, ...]] = {}
    for word in split_words(value):
        registry, equals, mirror = word.partition("=")
        name = parse_registry(registry, "is no registry before =")
        if not equals or not mirror:
            raise WrongItem(word, "names no mirror after =")
        try:
            found = check_default_registry(mirror)
        except InvalidArgument as error:
            raise WrongItem(word, "has no host[:port][/path] after =") from error
        mirrors[name] = (*mirrors.get(name, ()), found)
    return mirrors


def parse_default_registry(value: str) -> str:
    """Read `host[:port][/path]`, or nothing. Raises ValueError."""
    try:
        return check_default_registry(value)
    except InvalidArgument:
        raise ValueError("not a registry") from None


def parse_pull(value: str) -> PullRule | timedelta:
    """Read `always`, `missing`, `never` or a duration."""
    if value.lower() in {*PullRule}:
        return PullRule(value.lower())
    return parse_duration(value)


DefaultRegistry = Annotated[
    str,
    AfterValidator(parse_default_registry),
    Accepts("a registry as host[:port][/path], or nothing"),
]
Registries = Annotated[
    frozenset[str],
    parsed_by(parse_registries),
    Accepts("registries as host or host:port, separated by commas, such as registry.example:5000"),
]
RegistryMirrors = Annotated[
    dict[str, tuple[str, ...]],
    parsed_by(parse_registry_mirrors),
    Accepts(
        "registry=host[:port][/path], separated by commas, such as "
        "registry.example=mirror.example/path"
    ),
]
ImagePatterns = Annotated[
    tuple[str, ...],
    parsed_by(all_matching(_PATTERN, "is no reference of an image")),
    Accepts(
        "references in which * stands for text without a slash and ** for any, separated by "
        "commas, such as registry.example/team/*"
    ),
]
Pull = Annotated[
    PullRule | timedelta,
    parsed_by(parse_pull),
    Accepts("always, missing, never, or a duration such as 24h"),
]


def _template_with(placeholder: str) -> AfterValidator:
    def check(value: str) -> str:
        parse_template(value, placeholder)
        return value

    return AfterValidator(check)


ImageName = Annotated[
    str,
    matching(_IMAGE),
    Accepts(
        "an image that `waggle image ls` shows, a reference such as registry.example/app:tag, "
        "or an OCI layout as /path:tag"
    ),
]
Mirror = Annotated[
    str, matching(_MIRROR, empty=True), Accepts("a URL (http, https, file or copy), or nothing")
]
ExecCommand = Annotated[
    str, _template_with(FILE), Accepts(f"a command with {FILE} once, as a word of its own")
]
InstallCommand = Annotated[
    str, _template_with(PACKAGES), Accepts(f"a command with {PACKAGES} once, as a word of its own")
]


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

_PYTHON = f"python3 -Ic {shlex.quote(_PIP)} {{packages}}"
_NODE = "npm install --prefix /home/sandbox --no-audit --no-fund {packages}"
_SHELL = f"sh -c {shlex.quote(_APT)} install {{packages}}"


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
        _PYTHON,
        "How the python and data runtimes install packages, with pip or uv, for the user or "
        "into the virtual environment that PATH begins with. Started as root.",
    )
    runtime_node_install_command: InstallCommand = setting(
        _NODE,
        "How the node runtime installs packages.",
    )
    runtime_shell_install_command: InstallCommand = setting(
        _SHELL,
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
        "a duration, also if the last request is older; `always`; `never`. Digests are requested "
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
        "", "Registries used over plain HTTP: others on the path can read and change the data."
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
        "used are removed. Those of the runtimes and of running environments stay. 0 means no "
        "bound.",
        ge=0,
        le=1_000_000_000,
    )
