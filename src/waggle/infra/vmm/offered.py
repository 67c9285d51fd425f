# SPDX-License-Identifier: Apache-2.0
"""What an operator offers as a VMM: a program, a directory that holds one, or a release's archive.

`binaries` calls `gather`, which copies the program, and for Firecracker its jailer, into a
directory of the caller's and checks their headers. It runs nothing. An archive is untrusted: its
entries are data, and only those with the names of programs are written, under names of our own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
import re
import stat
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waggle.domain.errors import ImageCorrupt, InvalidArgument, TooLarge
from waggle.infra.archive import Limits
from waggle.infra.archive.decode import BoundedStream, Compression, CountedFile, compression_of
from waggle.infra.archive.tar import Entry, TarReader
from waggle.infra.vmm import elf

MOST_BYTES: Final = 256 << 20
"""Of one program."""
LIMITS: Final = Limits(entries=4096, total_bytes=4 << 30, file_bytes=2 << 30, window=64 << 20)
_MOST_PACKED: Final = 1 << 30
_MOST_NAMES: Final = 4096
"""Of a directory that is looked through."""
_MOST_PROGRAMS: Final = 8
"""In an archive."""
_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(
    r"(firecracker|jailer|cloud-hypervisor)(-static)?(-v[0-9]{1,6}(\.[0-9]{1,6}){1,2}(-dev)?)?"
    r"(?:-(?P<arch>x86_64|aarch64))?"
)
"""How releases name their programs: firecracker-v1.12.1-x86_64, cloud-hypervisor-static-aarch64."""
_RELEASE: Final = re.compile(r"release-v[0-9][0-9A-Za-z._-]{0,60}")
WANTED: Final = (
    "Name the program of Firecracker or Cloud Hypervisor, the directory that holds it, or the "
    "archive of a release."
)
JAILER_WANTED: Final = (
    "Name the jailer of the same release with --jailer, or have none: move the program to a "
    "directory without one."
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copied program whose headers were checked. `digest`: sha256, in hexadecimal digits."""

    path: Path
    digest: str
    source: str
    """The name that it had."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The program, and a jailer if one was named or lay beside it."""

    program: Copy
    jailer: Copy | None


def gather(path: Path, jailer: Path | None, work: Path, arch: str) -> Offered:
    """Copy what `path` offers into the empty directory `work`, which the caller removes.

    `arch` is this machine's. Blocks. Raises InvalidArgument or TooLarge for anything that is no
    program for it, OSError when a copy cannot be written.
    """
    with _opened(path) as (source, mode):
        if stat.S_ISREG(mode) and _is_archive(source):
            offered = _unpacked(source, path, work, arch)
            return Offered(offered.program, _jailer(jailer, work, arch)) if jailer else offered
    if stat.S_ISDIR(mode):
        directory, names = _looked_through(path)
        program, other = select(names, path, arch)
        path, beside = directory / program, other
    else:
        beside = jailer_of(path.name)
    if jailer is None and beside and path.with_name(beside).exists():
        jailer = path.with_name(beside)
    return Offered(_copied(path, work, arch), _jailer(jailer, work, arch) if jailer else None)


def _jailer(path: Path, work: Path, arch: str) -> Copy:
    try:
        return _copied(path, work, arch)
    except InvalidArgument as error:
        message = error.message.replace("is no VMM", "is no jailer")
        raise InvalidArgument(message, hint=JAILER_WANTED) from error


@contextlib.contextmanager
def _opened(path: Path) -> Generator[tuple[int, int]]:
    """Open without waiting, whatever it is; yield descriptor and mode. Raises InvalidArgument."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        why = "it is no ordinary file" if error.errno == errno.ENXIO else error.strerror
        raise InvalidArgument(f"{path} cannot be read: {why}.", hint=WANTED) from error
    try:
        yield descriptor, os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def _copied(path: Path, work: Path, arch: str) -> Copy:
    with _opened(path) as (source, mode):
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "no ordinary file"
            raise InvalidArgument(f"{path} is {kind}.", hint=WANTED)
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise InvalidArgument(
                f"{path} runs with the rights of its owner (setuid or setgid), which no VMM needs.",
                hint="Take the program of a release, or remove these bits: chmod ug-s FILE.",
            )
        if os.fstat(source).st_size > MOST_BYTES:
            raise too_large(path.name)
        pieces = iter(lambda: os.read(source, _CHUNK), b"")
        return _kept(pieces, path.name, work, arch)


def _kept(pieces: Iterable[bytes], name: str, work: Path, arch: str) -> Copy:
    """Write a new file of at most MOST_BYTES, and check its headers."""
    target = work / f"{len(list(work.iterdir()))}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    left, digest = MOST_BYTES, hashlib.sha256()
    with os.fdopen(os.open(target, flags, 0o600), "w+b") as file:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise too_large(name)
            file.write(piece)
            digest.update(piece)
        file.flush()
        _examine(file.fileno(), name, arch)
        os.fchmod(file.fileno(), 0o555)
    return Copy(target, digest.hexdigest(), name)


def too_large(name: str) -> TooLarge:
    """Return the error for a file that is no VMM, by its size. Pure."""
    most = MOST_BYTES >> 20
    return TooLarge(f"{name} has more than {most} MiB, so it is no VMM.", hint=WANTED)


def _examine(descriptor: int, name: str, arch: str) -> None:
    try:
        program = elf.read(descriptor)
    except elf.NotElf as error:
        raise InvalidArgument(f"{name} is no VMM: {error}.", hint=WANTED) from error
    if program.arch != arch:
        raise InvalidArgument(
            f"{name} is for {program.arch}, and this machine is {arch}.",
            hint=f"Take the release for {arch}.",
        )
    if not program.is_static:
        raise InvalidArgument(
            f"{name} needs libraries, and there are none where machines run.",
            hint="Take the static program of a release, such as cloud-hypervisor-static.",
        )


def _looked_through(directory: Path) -> tuple[Path, list[str]]:
    """Return the directory, or that of the one release in it, and the names of the programs."""
    names = _listed(directory)
    if not any(map(_NAME.fullmatch, names)):
        releases = [name for name in names if _RELEASE.fullmatch(name)]
        if len(releases) == 1:
            directory = directory / releases[0]
            names = _listed(directory)
    return directory, names


def _listed(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in itertools.islice(entries, _MOST_NAMES)]
    except OSError as error:
        why = error.strerror
        raise InvalidArgument(f"{directory} cannot be read: {why}.", hint=WANTED) from error


def select(names: Collection[str], place: Path, arch: str) -> tuple[str, str]:
    """Return the one program among names, and its jailer or an empty text. Pure.

    Raises InvalidArgument when there is none or more than one for this architecture.
    """
    known = {name: found for name in names if (found := _NAME.fullmatch(name))}
    ours = sorted(name for name, found in known.items() if found["arch"] in (None, arch))
    programs = [name for name in ours if not name.startswith("jailer")]
    static = [name for name in programs if "-static" in name]
    if all(name.startswith("cloud-hypervisor") for name in programs) and static:
        programs = static
    if not programs:
        other = " for this processor" if known else ""
        raise InvalidArgument(f"{place} holds no VMM{other}.", hint=WANTED)
    if len(programs) > 1:
        raise InvalidArgument(
            f"{place} holds several: {', '.join(programs[:10])}.", hint="Name one of them."
        )
    (program,) = programs
    jailer = jailer_of(program)
    return program, jailer if jailer in ours else ""


def jailer_of(program: str) -> str:
    """Return how the jailer of a program is called; empty for one that has none. Pure."""
    return program.replace("firecracker", "jailer", 1) if "firecracker" in program else ""


def _is_archive(source: int) -> bool:
    with os.fdopen(source, "rb", closefd=False) as file:
        head = os.pread(source, 512, 0)
        packed = compression_of(CountedFile(file, lambda _size: None))
    os.lseek(source, 0, os.SEEK_SET)
    return packed is not Compression.NONE or head[257:262] == b"ustar"


def _unpacked(source: int, path: Path, work: Path, arch: str) -> Offered:
    """Copy the program, and its jailer, out of an archive."""
    if os.fstat(source).st_size > _MOST_PACKED:
        raise TooLarge(f"{path} has more than {_MOST_PACKED >> 20} MiB.", hint=WANTED)
    aside = work / "unpacked"
    aside.mkdir()
    with os.fdopen(source, "rb", closefd=False) as file:
        stored = CountedFile(file, lambda _size: None)
        stream = io.BufferedReader(BoundedStream(stored, LIMITS, "The archive"), _CHUNK)
        try:
            names = _extracted(TarReader(stream, LIMITS), path, aside)
            while stream.read(_CHUNK):  # its checksum comes last
                pass
        except ImageCorrupt as error:
            words = error.message.replace("A layer's", "Its").replace("A layer", "It")
            raise InvalidArgument(f"{path} cannot be read. {words}", hint=WANTED) from error
    program, jailer = select(names, path, arch)
    found = _copied(aside / program, work, arch)
    return Offered(found, _copied(aside / jailer, work, arch) if jailer else None)


def _extracted(reader: TarReader, path: Path, aside: Path) -> set[str]:
    """Write the ordinary files that are named as programs; return their names."""
    names: set[str] = set()
    for count, entry in enumerate(reader):
        name = entry.path[-1].decode("ascii", "replace") if entry.path else ""
        if count >= LIMITS.entries or len(names) >= _MOST_PROGRAMS:
            raise TooLarge(f"{path} holds more than a release does.", hint=WANTED)
        if not stat.S_ISREG(entry.mode) or not _NAME.fullmatch(name):
            continue
        if name in names:
            raise InvalidArgument(f"{path} holds {name} twice.", hint="Unpack it, and name one.")
        if entry.size > MOST_BYTES:
            raise too_large(name)
        _write(aside / name, entry, reader)
        names.add(name)
    return names


def _write(target: Path, entry: Entry, reader: TarReader) -> None:
    with target.open("xb") as file:
        for offset, data in reader.content():
            file.seek(offset)
            file.write(data)
        file.truncate(entry.size)
