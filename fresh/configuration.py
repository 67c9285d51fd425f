# SPDX-License-Identifier: Apache-2.0
"""This machine's package manager configuration, read here and written into a bare root.

Called by `fresh.root`. Knows where apt, pip, npm and cargo keep their configuration, and which
variables name certificates, proxies and indexes; nothing else of this machine reaches the root.
Contains no host names.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from waggle.infra.shared import debian
from waggle.infra.shared.debian import Source

SYSTEM_FILES = ("etc/pip.conf", "etc/xdg/pip/pip.conf", "etc/npmrc", "etc/resolv.conf", "etc/hosts")
HOME_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc", ".cargo/config.toml")
NAMED = (
    *("AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"),
    *("REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
)
PREFIXES = ("CARGO_", "PIP_", "UV_", "npm_config_")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian's programs look for certificates. `update-ca-certificates` writes it."""
_APT_OPTION = re.compile(r"Acquire::(?:https?|Check-|Retries|Proxy).*;")
_WHERE_FROM = re.compile(
    r"cafile|cainfo|cert|config_file|find_links|index|net_|proxy|registr|retries|source_|ssl|timeout"
    r"|tls|trusted_host"
)
"""Matches names of variables (in lower case) that say where packages come from and whom to trust.
"""
_NOT_PASSED = re.compile(r"publish|registry_token|cache|target")
_DEBIAN = re.compile(r"/debian(?:-security)?/?$")
_PATH = re.compile(r"""[=\s"'](/[^\s"';,]+)""")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.S)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration that a bare root gets.

    `files` are paths below the root, `home` below each user's home, `copied` are paths that
    `variables` or these files name, and `certificates` are PEM texts to trust.
    """

    files: Mapping[str, bytes]
    home: Mapping[str, bytes]
    variables: Mapping[str, str]
    copied: tuple[Path, ...]
    certificates: tuple[str, ...]


def read(suite: str, environ: Mapping[str, str]) -> Configuration:
    """Read this machine's configuration. Raises SetupIncomplete if no Debian archive is known."""
    files = _contents(Path("/"), SYSTEM_FILES)
    files["etc/apt/apt.conf.d/90this-network"] = apt_options(_apt_dump()).encode()
    files["etc/apt/sources.list.d/debian.sources"] = _sources(Path("/etc"), suite).encode()
    home = _contents(Path(environ.get("HOME", "/nonexistent")), HOME_FILES)
    variables = chosen(environ)
    named = {Path(value) for value in variables.values() if value.startswith("/")}
    for text in (*files.values(), *home.values()):
        found = map(Path, _PATH.findall(text.decode("utf-8", "replace")))
        named |= {path for path in found if path.is_file()}
    bundles = [*sorted(path for path in named if path.is_file()), BUNDLE]
    return Configuration(
        files,
        home,
        variables,
        tuple(sorted(path for path in named if path.exists() and path != BUNDLE)),
        certificates(path.read_text("utf-8", "replace") for path in bundles if path.is_file()),
    )


def chosen(environ: Mapping[str, str]) -> dict[str, str]:
    """Select the variables that say where packages come from and whom to trust. Pure.

    Leaves out caches, targets and the credentials for publishing.
    """
    lower = {name.lower() for name in NAMED}
    prefixes = tuple(prefix.lower() for prefix in PREFIXES)

    def fits(name: str) -> bool:
        about = name.startswith(prefixes) and _WHERE_FROM.search(name)
        return name in lower or bool(about and not _NOT_PASSED.search(name))

    return {name: value for name, value in environ.items() if fits(name.lower())}


def certificates(texts: Iterable[str]) -> tuple[str, ...]:
    """Return every certificate of PEM texts once, in order. Pure."""
    return tuple(dict.fromkeys(found for text in texts for found in _CERTIFICATE.findall(text)))


def apt_options(dump: str) -> str:
    """Select the lines of `apt-config dump` about reaching and checking an archive. Pure."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_OPTION.fullmatch(line))


def apt_sources(entries: Iterable[Source], here: str, suite: str) -> str:
    """Return stanzas for the Debian archives in apt's sources, with `suite` for `here`. Pure."""
    stanzas = [
        _stanza(uri, [re.sub(rf"^{here}\b", suite, name) for name in entry.suites])
        for entry in entries
        if "main" in entry.components and not entry.is_foreign
        for uri in entry.uris
        if _DEBIAN.search(uri) and any(name.partition("-")[0] == here for name in entry.suites)
    ]
    return "\n".join(stanzas)


def _stanza(uri: str, suites: Iterable[str]) -> str:
    return (
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\n"
        f"Components: main\nSigned-By: {debian.KEYRING}\n"
    )


def _sources(etc: Path, suite: str) -> str:
    """Return this machine's archives for a suite, or if it has none, one that waggle finds."""
    release = (etc / "os-release").read_text("utf-8", "replace")
    here = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.M)
    own = apt_sources(debian.sources(etc / "apt"), here[1], suite) if here else ""
    return own or _stanza(debian.mirror(None), [suite])


def _apt_dump() -> str:
    if shutil.which("apt-config") is None:
        return ""
    return subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout


def _contents(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read those of the files that exist."""
    return {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}
