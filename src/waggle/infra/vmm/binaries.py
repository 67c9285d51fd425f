# SPDX-License-Identifier: Apache-2.0
"""The store of VMM programs: DATA_DIR/system/binaries/{vmm}/{version}/{arch}/, and their records.

The adapters ask it for the newest program, or for the one that made a snapshot; `waggle vmm` adds
and removes. Programs come from the operator: `offered` copies them, `candidate` runs them once.
Knows no machines, and not what needs a program.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Collection, Generator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from waggle.domain.errors import Busy, InvalidArgument, NotFound, SetupIncomplete
from waggle.infra.shared.disk_room import full, is_full
from waggle.infra.shared.files import FileLock, atomic_write
from waggle.infra.shared.work import place, sweep, workspace
from waggle.infra.vmm import candidate, kept, offered
from waggle.infra.vmm.candidate import AskVersion
from waggle.infra.vmm.kept import JAILER, RECORD, Binary, Installed
from waggle.infra.vmm.version import OLDEST, TITLES, Version, Vmm

__all__ = ["Added", "Binary", "BinaryStore", "Installed"]

_LOCK: Final = ".lock"
_LOCK_SECONDS: Final = 60.0
_AGAIN: Final = "Add it again: waggle vmm add PATH."
_PRIVATE: Final = (
    "Only root and the server's user may write there: give it to that user (chown), and take the "
    "rights of others away (chmod go-w)."
)


class Added(NamedTuple):
    """The program, and whether anything was written: a second `add` of the same is no error."""

    binary: Binary
    new: bool


class BinaryStore:
    """The programs below one directory, which need not exist. Safe for several processes."""

    def __init__(
        self, directory: Path, *, arch: str = platform.machine(), owners: Collection[int] = ()
    ) -> None:
        """`arch` is this machine's, as `uname -m` prints it.

        Files belong to root, to this process's user, or to one of `owners`: a command that root
        runs for a server of another user names that one.
        """
        self.directory = directory
        self.arch = arch
        self._users = frozenset((0, os.geteuid(), *owners))

    def installed(self) -> tuple[Installed, ...]:
        """Return all programs, by VMM and version; blocks to read those that are new.

        Files that are not of the store are left out. Does not raise.
        """
        found: list[Installed] = []
        for path in self._directories():
            vmm, version, arch = Vmm(path.parts[-3]), Version.parse(path.parts[-2]), path.name
            try:
                binary = kept.read(path)
            except ValueError as error:
                found.append(Installed(vmm, version, arch, None, str(error)))
                continue
            problem = kept.problem(binary, self.directory, self._users)
            if not problem and arch != self.arch:
                problem = f"it is for {arch}, and this machine is {self.arch}"
            if not problem and version < OLDEST[vmm]:
                problem = f"it is not supported: {candidate.supported()}"
            found.append(Installed(vmm, version, arch, binary, problem))
        return tuple(sorted(found, key=lambda one: (one.vmm, one.version, one.arch)))

    def _directories(self) -> Generator[Path]:
        for vmm in Vmm:
            for path in self.directory.glob(f"{vmm}/*/[!.]*/"):
                with contextlib.suppress(ValueError):
                    if str(Version.parse(path.parts[-2])) == path.parts[-2]:
                        yield path

    def newest(self, vmm: Vmm) -> Binary:
        """Return the newest program, verified. Blocks to read it once.

        Raises SetupIncomplete when there is none, and when the newest cannot be used: an older one
        never replaces it silently.
        """
        ours = [one for one in self.installed() if one.vmm is vmm and one.arch == self.arch]
        if not ours:
            raise SetupIncomplete(
                f"{TITLES[vmm]} is not installed.",
                hint=f"Add its program: waggle vmm add PATH. {candidate.supported()}",
            )
        return self._usable(ours[-1])

    def find(self, vmm: Vmm, digest: str, version: str) -> Binary:
        """Return the program that made a frozen machine, by its digest; verified.

        `version` is for the message. Both may come from a file of anybody's. Raises
        SetupIncomplete, which names the version to add or says that the file was replaced.
        """
        ours = [one for one in self.installed() if one.vmm is vmm and one.arch == self.arch]
        for one in ours:
            if one.binary is not None and one.binary.digest == digest:
                return self._usable(one)
        hint = "Add that program: waggle vmm add PATH."
        if kept.is_digest(digest):
            hint = f"{hint.removesuffix('.')}; its sha256 is {digest}."
        if any(str(one.version) == version for one in ours):
            raise SetupIncomplete(
                f"It was made by another build of {TITLES[vmm]} {version} than the one here.",
                hint=f"Remove that one: waggle vmm rm {vmm} {version}. {hint}",
            )
        raise SetupIncomplete(f"It needs {_called(vmm, version)}, which is not here.", hint=hint)

    def _usable(self, one: Installed) -> Binary:
        if one.binary is None or one.problem:
            is_private = not kept.place_problem(self.directory, self._users)
            again = f"{_AGAIN} Or remove it: waggle vmm rm {one.vmm} {one.version}."
            raise SetupIncomplete(
                f"{TITLES[one.vmm]} {one.version} cannot be used: {one.problem}.",
                hint=again if is_private else _PRIVATE,
            )
        return one.binary

    async def add(
        self, path: Path, jailer: Path | None = None, *, ask: AskVersion = candidate.ask_version
    ) -> Added:
        """Keep a program, a directory's or an archive's, and its jailer; see `offered.gather`.

        Idempotent: the same program again changes nothing, except that it repairs damage and adds
        a jailer. Blocks to copy. A cancelled or failed call leaves nothing, a killed one a work
        directory that the next call removes. Raises InvalidArgument, TooLarge, SetupIncomplete,
        TimedOut, DiskFull.
        """
        with self._errors():
            self.directory.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make(self.directory.parent)
            self._make(self.directory)
            if found := kept.place_problem(self.directory, self._users):
                raise SetupIncomplete(f"No program can be kept: {found}.", hint=_PRIVATE)
            sweep(self.directory)
            with workspace(self.directory) as work:
                found = offered.gather(path, jailer, work, self.arch)
                terms = candidate.Terms(place=work)
                said = await candidate.examine(found.program, found.jailer, ask, terms)
                binary = self._named(found, said)
                made = work / "made"
                made.mkdir(mode=0o755)
                made.chmod(0o755)
                found.program.path.rename(made / binary.path.name)
                if found.jailer is not None:
                    found.jailer.path.rename(made / JAILER)
                atomic_write(made / RECORD, binary.record(), 0o444)
                with FileLock(self.directory / _LOCK, timeout=_LOCK_SECONDS):
                    return self._placed(binary, made, work / "old")

    def _named(self, found: offered.Offered, said: candidate.Said) -> Binary:
        directory = self.directory / said.vmm / str(said.version) / self.arch
        return Binary(
            said.vmm,
            said.version,
            self.arch,
            directory / said.vmm.value,
            found.program.digest,
            directory / JAILER if found.jailer else None,
            found.jailer.digest if found.jailer else "",
            f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            found.program.source,
            said.unasked,
        )

    def _placed(self, binary: Binary, made: Path, old: Path) -> Added:
        """Give the finished directory its name, unless the same program has it. Holds the lock.

        A damaged program gives way only to the same, with its jailer: a frozen machine may need it.
        """
        target = binary.path.parent
        there = self._there(target)
        if (digest := _digest_in(target, there, binary.vmm)) and digest != binary.digest:
            raise InvalidArgument(
                f"Another build of {TITLES[binary.vmm]} {binary.version} is here already.",
                hint=f"Remove it first: waggle vmm rm {binary.vmm} {binary.version}.",
            )
        if there is not None and not kept.problem(there, self.directory, self._users):
            if binary.jailer_digest in ("", there.jailer_digest):
                return Added(there, new=False)
            if there.jailer is not None:  # killed from here on, it has a program without a jailer
                alone = replace(there, jailer=None, jailer_digest="")
                atomic_write(target / RECORD, alone.record(), 0o444)
            place(made / JAILER, target / JAILER)
            place(made / RECORD, target / RECORD)
            return Added(binary, new=True)
        if there is not None and there.jailer_digest and not binary.jailer_digest:
            raise InvalidArgument(
                f"{TITLES[binary.vmm]} {binary.version} is damaged, and had its jailer.",
                hint="Add it with that: waggle vmm add PATH --jailer PATH; or remove it first.",
            )
        if target.exists():
            target.rename(old)
        for directory in (target.parent.parent, target.parent):
            self._make(directory)
        place(made, target)
        return Added(binary, new=True)

    def _there(self, directory: Path) -> Binary | None:
        """Return what has the name already, if it has a record."""
        with contextlib.suppress(ValueError):
            return kept.read(directory)
        return None

    def remove(self, vmm: Vmm, version: Version, needs: Callable[[str], str]) -> None:
        """Remove a version. `needs` says what needs the program with a digest; empty for nothing.

        Raises NotFound, Busy when something needs it, SetupIncomplete when it cannot be removed.
        """
        directory = self.directory / vmm / str(version)
        if not directory.is_dir():
            raise NotFound(
                f"{TITLES[vmm]} {version} is not installed.", hint="See 'waggle vmm ls'."
            )
        with self._errors(), FileLock(self.directory / _LOCK, timeout=_LOCK_SECONDS):
            for one in self.installed():
                if (one.vmm, one.version) != (vmm, version):
                    continue
                found = _digest_in(directory / one.arch, one.binary, vmm)
                if found and (why := needs(found)):
                    raise Busy(
                        f"{TITLES[vmm]} {version} is needed by {why}.",
                        hint="Remove that first, or add --force: it can then not be resumed.",
                    )
            with workspace(self.directory) as work:
                directory.rename(work / "old")
            with contextlib.suppress(OSError):  # another version is there
                directory.parent.rmdir()

    def _make(self, directory: Path) -> None:
        """Make a directory that every user may enter, whatever the umask."""
        if not directory.is_dir():
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        """Turn the block's OSErrors into errors to show."""
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise full(error, str(self.directory)) from error
            raise SetupIncomplete(
                f"{error.filename or self.directory}: {error.strerror or error}.",
                hint="Run this as the user of the server, or as root.",
            ) from error


def _digest_in(directory: Path, recorded: Binary | None, vmm: Vmm) -> str:
    """Return the digest of the record, or without one that of the file; empty without both."""
    if recorded is not None:
        return recorded.digest
    with contextlib.suppress(OSError):
        return kept.digest_of(directory / vmm.value)
    return ""


def _called(vmm: Vmm, version: str) -> str:
    """Return the name of a program; a version that is none is left out."""
    try:
        return f"{TITLES[vmm]} {Version.parse(version)}"
    except ValueError:
        return f"another {TITLES[vmm]}"
