# SPDX-License-Identifier: Apache-2.0
"""Which Debian archive this host uses, or would use: found in its files or asked of mmdebstrap.

Called by `waggle.infra.shared.debian`, and by the bare roots of `fresh`. No host's name stands
here, and nothing is downloaded.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from waggle.domain.errors import SetupIncomplete

_KEYS = "debian-archive"
_SUITES = {
    *("stable", "testing", "unstable", "sid", "oldstable"),
    *("bullseye", "bookworm", "trixie", "forky", "duke"),
}
_URI = re.compile(r"(?:https?|file|mirror\+file)://?[^\s\[\]'\"]+")
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<rest>.*)")
_SIGNED_BY = re.compile(r"signed-by=\S+", re.IGNORECASE)
ASK_SECONDS = 60
_NAME_IT = "Or set WAGGLE_DEBIAN_MIRROR to the address of a Debian archive."


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of apt's sources, as far as it tells whose archive it is."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether it says that another key than Debian's signs it."""
        return bool(self.signed_by) and _KEYS not in self.signed_by


def host_archive(etc: Path) -> str | None:
    """The URI of the Debian archive that the sources below `etc` name, if they name one.

    Vendors use the names of Debian's suites, too. So on Debian its own key and an archive's usual
    path come first, and elsewhere an entry of another key or path is none.
    """
    found = [
        (source.is_foreign, not uri.rstrip("/").endswith("/debian"), uri.rstrip("/"))
        for source in sources(etc / "apt")
        if "main" in source.components and not _SUITES.isdisjoint(source.suites)
        for uri in source.uris
        if _URI.fullmatch(uri)
    ]
    if not is_debian(etc):
        found = [each for each in found if not each[0] and "/debian" in each[2]]
    return min(found, key=lambda each: each[:2], default=("", "", None))[2]


def is_debian(etc: Path) -> bool:
    """Whether this host is Debian itself, and no distribution made from it."""
    try:
        lines = (etc / "os-release").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(re.fullmatch(r"""ID=["']?debian["']?""", line.strip()) for line in lines)


def sources(apt: Path) -> Iterator[Source]:
    """The entries of apt's sources, in both formats."""
    parts = apt / "sources.list.d"
    for file in sorted(parts.glob("*.sources")):
        yield from _stanzas(file.read_text("utf-8", "replace"))
    for file in (apt / "sources.list", *sorted(parts.glob("*.list"))):
        if file.is_file():
            yield from _lines(file.read_text("utf-8", "replace"))


def _stanzas(text: str) -> Iterator[Source]:
    """The entries of a file in deb822 format. Pure."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", kept):
        fields = message_from_string(paragraph.lstrip("\n"))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            uris, suites, components = (
                tuple(fields.get(name, "").split()) for name in ("URIs", "Suites", "Components")
            )
            yield Source(uris, suites, components, fields.get("Signed-By", "").strip())


def _lines(text: str) -> Iterator[Source]:
    """The entries of a file with one on each line. Pure."""
    for match in filter(None, map(_LINE.match, text.splitlines())):
        components = tuple(match["rest"].partition("#")[0].split())
        signed = _SIGNED_BY.search(match["options"] or "")
        key = signed.group() if signed else ""
        yield Source((match["uri"],), (match["suite"],), components, key)


@functools.cache
def default_archive(suite: str) -> str:
    """The URI that the installed mmdebstrap takes for a Debian suite when it is given none.

    Asks it once in a process, for about a second: it writes an empty tree's sources, which a hook
    prints, and fetches nothing. Raises SetupIncomplete when it is missing or does not say.
    """
    if shutil.which("mmdebstrap") is None:
        raise SetupIncomplete(
            "No Debian archive is known here, and there is no mmdebstrap to ask for one.",
            hint=f"Run 'waggle setup'. {_NAME_IT}",
        )
    argv = ["timeout", "--kill-after=10", str(ASK_SECONDS), "mmdebstrap"]
    argv += ["--mode=chrootless", "--variant=custom", "--format=null"]
    argv += ["--skip=update,cleanup,check/signed-by,check/qemu,check/chrootless"]
    argv += ['--setup-hook=cat "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* || true']
    answer = subprocess.run(
        [*argv, suite, "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = answer.stdout.decode("utf-8", "replace")
    for source in (*_lines(text), *_stanzas(text)):
        if suite in source.suites and source.uris and _URI.fullmatch(source.uris[0]):
            return source.uris[0].rstrip("/")
    last = " | ".join(text.splitlines()[-3:])
    raise SetupIncomplete(
        f"mmdebstrap does not say where it gets Debian from ({answer.returncode}): {last}",
        hint=f"Check that mmdebstrap works. {_NAME_IT}",
    )
