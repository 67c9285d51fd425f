# SPDX-License-Identifier: Apache-2.0
"""How this machine's package managers are configured, read here and written into a bare root.

Called by `fresh.root`. Knows where apt, pip, npm and cargo keep their configuration, and which
variables name certificates, proxies and indexes; nothing else of this machine reaches the root.
No host's name is known here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from waggle.infra import debian

SYSTEM_FILES = ("etc/pip.conf", "etc/xdg/pip/pip.conf", "etc/npmrc", "etc/resolv.conf", "etc/hosts")
HOME_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc", ".cargo/config.toml")
VARIABLES = (
    *("AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"),
    *("REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
)
PREFIXES = ("CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_", "PIP_", "UV_", "npm_config_")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian's programs look. `update-ca-certificates` writes it."""
_APT_OPTION = re.compile(r"Acquire::(?:https?|Check-|Retries|Proxy).*;")
_DEBIAN = re.compile(r"^URIs:.*/debian(?:-security)?/?\s*$", re.M)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.S)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a bare root is given.

    `files` are paths below the root, `home` below each user's home, `copied` are paths that
    `variables` name, and `certificates` are PEM texts to trust.
    """

    files: Mapping[str, bytes]
    home: Mapping[str, bytes]
    variables: Mapping[str, str]
    copied: tuple[Path, ...]
    certificates: tuple[str, ...]


def read(suite: str, environ: Mapping[str, str]) -> Configuration:
    """Read this machine's. Raises SetupIncomplete where no Debian archive is known."""
    home = Path(environ.get("HOME", "/nonexistent"))
    files = _contents(Path("/"), SYSTEM_FILES)
    files["etc/apt/apt.conf.d/90this-network"] = apt_options(_apt_dump()).encode()
    files["etc/apt/sources.list.d/debian.sources"] = _sources(Path("/etc"), suite).encode()
    variables = chosen(environ)
    named = {Path(value) for value in variables.values() if value.startswith("/")}
    bundles = [*sorted(path for path in named if path.is_file()), BUNDLE]
    return Configuration(
        files,
        _contents(home, HOME_FILES),
        variables,
        tuple(sorted(path for path in named if path.exists() and path != BUNDLE)),
        certificates(path.read_text("utf-8", "replace") for path in bundles if path.is_file()),
    )


def chosen(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that say where packages come from and whom to trust. Pure."""
    lower = {name.lower() for name in VARIABLES}
    prefixes = tuple(prefix.lower() for prefix in PREFIXES)
    return {
        name: value
        for name, value in environ.items()
        if name.lower() in lower or name.lower().startswith(prefixes)
    }


def certificates(texts: Iterable[str]) -> tuple[str, ...]:
    """Each certificate of PEM texts once, in their order. Pure."""
    return tuple(dict.fromkeys(found for text in texts for found in _CERTIFICATE.findall(text)))


def apt_options(dump: str) -> str:
    """What of `apt-config dump` says how to reach an archive and what to check. Pure."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_OPTION.fullmatch(line))


def apt_sources(texts: Iterable[str], here: str, suite: str) -> str:
    """The Debian archives among deb822 sources, with `suite` in the place of `here`. Pure."""
    stanzas = [stanza for text in texts for stanza in re.split(r"\n\s*\n", text)]
    lines = ["\n".join(line for line in s.splitlines() if line[:1] != "#") for s in stanzas]
    kept = [stanza for stanza in lines if _DEBIAN.search(stanza)]
    return "\n\n".join(re.sub(rf"\b{here}\b", suite, stanza) for stanza in kept) + "\n"


def _sources(etc: Path, suite: str) -> str:
    """This machine's archives for a suite; where it has none of its own, one that waggle finds."""
    release = (etc / "os-release").read_text("utf-8", "replace")
    here = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.M)
    files = sorted((etc / "apt/sources.list.d").glob("*.sources"))
    texts = [file.read_text("utf-8", "replace") for file in files]
    if here and (found := apt_sources(texts, here[1], suite).strip()):
        return f"{found}\n"
    return (
        f"Types: deb\nURIs: {debian.mirror(None)}\nSuites: {suite}\n"
        f"Components: main\nSigned-By: {debian.KEYRING}\n"
    )


def _apt_dump() -> str:
    if shutil.which("apt-config") is None:
        return ""
    return subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout


def _contents(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of the files that are there."""
    return {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}
