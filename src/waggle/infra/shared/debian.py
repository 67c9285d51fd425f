# SPDX-License-Identifier: Apache-2.0
"""Trees of Debian packages made by mmdebstrap, and the search for a Debian archive.

The source of images, the guest kit and the kernel; shared by the adapters under `waggle.infra`. The
archive comes from the host's apt sources or from mmdebstrap: this file names no host, and the
search downloads nothing. Knows nothing of the use of a tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from waggle.domain.errors import DiskFull, SetupIncomplete
from waggle.infra.shared import confined
from waggle.tasks import finish

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
    """One entry of apt's sources: the fields that identify an archive."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether it names another signing key than Debian's."""
        return bool(self.signed_by) and _KEYS not in self.signed_by


def host_archive(etc: Path) -> str | None:
    """Return the URI of the Debian archive that the sources below `etc` name, or None.

    Vendors use the names of Debian's suites, too. So on Debian, entries with Debian's key and an
    archive's usual path come first; elsewhere, entries with another key or path do not count.
    """
    found = [
        (source.is_foreign, not uri.rstrip("/").endswith("/debian"), uri.rstrip("/"))
        for source in sources(etc / "apt")
        if "main" in source.components and not _SUITES.isdisjoint(source.suites)
        for uri in source.uris
        if _URI.fullmatch(uri)
    ]
    if not is_debian(etc):
        found = [archive for archive in found if not archive[0] and "/debian" in archive[2]]
    return min(found, key=lambda archive: archive[:2], default=("", "", None))[2]


def is_debian(etc: Path) -> bool:
    """Return whether this host is Debian itself, not a derived distribution."""
    try:
        lines = (etc / "os-release").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(re.fullmatch(r"""ID=["']?debian["']?""", line.strip()) for line in lines)


def sources(apt: Path) -> Iterator[Source]:
    """Yield the entries of apt's sources, in both formats."""
    parts = apt / "sources.list.d"
    for file in sorted(parts.glob("*.sources")):
        yield from _stanzas(file.read_text("utf-8", "replace"))
    for file in (apt / "sources.list", *sorted(parts.glob("*.list"))):
        if file.is_file():
            yield from _lines(file.read_text("utf-8", "replace"))


def _stanzas(text: str) -> Iterator[Source]:
    """Yield the entries of a file in deb822 format. Pure."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", kept):
        fields = message_from_string(paragraph.lstrip("\n"))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            uris, suites, components = (
                tuple(fields.get(name, "").split()) for name in ("URIs", "Suites", "Components")
            )
            yield Source(uris, suites, components, fields.get("Signed-By", "").strip())


def _lines(text: str) -> Iterator[Source]:
    """Yield the entries of a file in one-line format. Pure."""
    for match in filter(None, map(_LINE.match, text.splitlines())):
        components = tuple(match["rest"].partition("#")[0].split())
        signed = _SIGNED_BY.search(match["options"] or "")
        key = signed.group() if signed else ""
        yield Source((match["uri"],), (match["suite"],), components, key)


@functools.cache
def default_archive(suite: str) -> str:
    """Return the URI that the installed mmdebstrap uses for a Debian suite by default.

    Runs mmdebstrap once per process, for about a second: it writes an empty tree's sources, which a
    hook prints, and fetches nothing. Raises SetupIncomplete when it is missing or prints no URI.
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


KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "trixie"
_ETC = Path("/etc")
_TAIL_LINES = 15
_CHUNK = 16 * 1024
GRACE_SECONDS = 10.0
_PROBE_SECONDS = 10.0
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "not enough free space")
"""Messages of tools; the last one is apt's."""

OnLine = Callable[[str], None]
"""Called with every line that a tool prints, for progress."""


def mirror(configured: str | None, etc: Path = _ETC) -> str:
    """Return the URI of a Debian archive: the configured one, this host's or mmdebstrap's default.

    The host's is the one in its apt sources below `etc`. Where these name none, as on Ubuntu, the
    first call in a process blocks for about a second for mmdebstrap's. Raises SetupIncomplete when
    none is known.
    """
    return configured or host_archive(etc) or default_archive(SUITE)


def tree_argv(
    uri: str,
    *,
    suite: str = SUITE,
    packages: Sequence[str],
    variant: str = "extract",
    hooks: Sequence[str] = (),
    options: Sequence[str] = (),
    target: str = "-",
    form: str = "null",
) -> list[str]:
    """Return the mmdebstrap command for a tree of packages. Pure except for finding the keyring.

    `hooks` are complete `--extract-hook` and similar options. Signatures are checked; validity
    dates are not, because mirrors lag.
    """
    argv = ["mmdebstrap", f"--variant={variant}", f"--format={form}", "--skip=check/empty"]
    argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    if packages:
        argv.append(f"--include={','.join(packages)}")
    if KEYRING.exists():
        argv.append(f"--keyring={KEYRING}")
    return [*argv, *hooks, *options, suite, target, f"deb {uri} {suite} main"]


def own_mounts() -> tuple[str, ...]:
    """Return a command prefix with which a program's mounts end with its last process.

    mmdebstrap as root mounts /proc and more into its tree, which stay on the host when it is
    killed. Empty for users who may not unshare mounts: they cannot mount, either.
    """
    return _own_mounts(os.geteuid())


@functools.cache
def _own_mounts(_user: int) -> tuple[str, ...]:
    unshare = ("unshare", "--mount")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*unshare, "true"], check=True, capture_output=True, timeout=_PROBE_SECONDS)
        return unshare
    return ()


async def run(
    argv: Sequence[str],
    on_line: OnLine = lambda _line: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a build tool to its end. Raises SetupIncomplete with its last lines when it fails.

    Raises DiskFull when these report a full disk. `environment` replaces this process's, also for
    programs that the tool starts. Cancelling ends the whole process group, which gets GRACE_SECONDS
    to clean up, and waits for it.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise SetupIncomplete(f"{argv[0]} is not installed.")
    process = await asyncio.create_subprocess_exec(
        *await asyncio.to_thread(own_mounts),
        program,
        *argv[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        cwd="/",  # mmdebstrap's mapped users may have no access to the caller's directory
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        async for line in _output_lines(process.stdout):
            tail.append(line)
            on_line(line)
        code = await process.wait()
    finally:
        await finish(_end(process))
    if code != 0 and any(text in line for line in tail for text in _DISK_FULL):
        raise DiskFull(f"{argv[0]} met a full disk: " + " | ".join(tail))
    if code != 0:
        refused = confined.refusal(os.geteuid()) if argv[0] == "mmdebstrap" else ""
        raise SetupIncomplete(
            f"{argv[0]} failed ({code}): " + " | ".join(tail),
            hint=f"Without root it needs user namespaces: {refused}. {confined.NEXT_STEP}"
            if refused
            else "",
        )


async def _output_lines(stream: asyncio.StreamReader | None) -> AsyncGenerator[str]:
    """Yield a tool's output by lines; progress bars count as lines, and long lines are cut."""
    rest = b""
    while stream is not None and (data := await stream.read(_CHUNK)):
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        rest = rest[:_CHUNK]
        for line in lines:
            yield line[:_CHUNK].decode("utf-8", "replace").rstrip()
    if rest:
        yield rest.decode("utf-8", "replace").rstrip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the group of a process that was not reaped, so its number cannot have been reused."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
