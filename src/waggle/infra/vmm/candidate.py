# SPDX-License-Identifier: Apache-2.0
"""The version of a VMM's program: what `--version` prints, and what its API answers.

`binaries` calls `examine` with copies that `offered` made, which may be of any program; `trial`
confines them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from waggle.domain.errors import InvalidArgument, SetupIncomplete, TimedOut, WaggleError
from waggle.infra.vmm.client import Dial, VmmClient
from waggle.infra.vmm.cloud_hypervisor import VMM_PING
from waggle.infra.vmm.errors import VmmError
from waggle.infra.vmm.firecracker import GET_FIRECRACKER_VERSION
from waggle.infra.vmm.kept import Installed
from waggle.infra.vmm.offered import JAILER_WANTED, WANTED, Copy
from waggle.infra.vmm.trial import API, running
from waggle.infra.vmm.version import OLDEST, TITLES, Version, Vmm

AskVersion = Callable[[Dial, Vmm, Version], Awaitable[str]]
"""Asks the API of a VMM for its version. Raises WaggleError or OSError."""
SECONDS: Final = 15.0
_JAILER: Final = "jailer"
_RELEASE: Final = "Take the program of a release."
_BANNER: Final = re.compile(r"(firecracker|jailer|cloud-hypervisor) (v?[0-9][0-9A-Za-z.+-]{0,80})")
_CANNOT_RUN: Final = (126, 127)


@dataclass(frozen=True, slots=True)
class Terms:
    """`seconds` for each start of a program, and where its directory is made, which is removed."""

    seconds: float = SECONDS
    place: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))


TERMS: Final = Terms()


@dataclass(frozen=True, slots=True)
class Said:
    """What a program says of itself. Its API agrees; or `unasked` is why it was not asked."""

    vmm: Vmm
    version: Version
    unasked: str = ""


async def ask_version(dial: Dial, vmm: Vmm, version: Version) -> str:
    """Return what the API of a VMM says its version is. Raises VmmError."""
    client = VmmClient(dial, vmm, version, seconds=SECONDS)
    if vmm is Vmm.CLOUD_HYPERVISOR:
        return (await client.call(VMM_PING)).version
    return (await client.call(GET_FIRECRACKER_VERSION)).firecracker_version


async def examine(
    program: Copy,
    jailer: Copy | None,
    ask: AskVersion = ask_version,
    terms: Terms = TERMS,
) -> Said:
    """Return the version of a VMM, and check that its jailer has the same.

    Cloud Hypervisor opens KVM before it answers; where it cannot, its API is not asked.
    Raises InvalidArgument for another program, a version that is not supported or two that
    differ, SetupIncomplete when the program cannot run here, TimedOut when one of its starts
    takes too long.
    """
    name, version = await _printed(program, terms)
    if name == _JAILER:
        raise InvalidArgument(
            f"{program.source} is Firecracker's jailer.", hint="Name firecracker itself."
        )
    vmm = Vmm(name)
    if version < OLDEST[vmm]:
        raise InvalidArgument(f"{TITLES[vmm]} {version} is not supported.", hint=supported())
    if jailer is not None:
        await _same(vmm, version, jailer, terms)
    try:
        answer = await _answered(program, vmm, version, ask, terms)
    except SetupIncomplete as error:
        if vmm is not Vmm.CLOUD_HYPERVISOR:
            raise
        return Said(vmm, version, error.message)
    try:
        agrees = Version.parse(answer) == version
    except ValueError:
        agrees = False
    if not agrees:
        raise InvalidArgument(
            f"{program.source} lies: it prints version {version}, and its API says "
            f"{_clean(answer)}.",
            hint=_RELEASE,
        )
    return Said(vmm, version)


async def again(one: Installed, ask: AskVersion = ask_version) -> Installed:
    """Return an installed program with what is wrong with it now, by another run of it."""
    binary = one.binary
    if binary is None or one.problem:
        return one
    jailer = None
    if binary.jailer is not None:
        jailer = Copy(binary.jailer, binary.jailer_digest, "Its jailer")
    try:
        said = await examine(Copy(binary.path, binary.digest, "It"), jailer, ask)
    except WaggleError as error:
        return replace(one, problem=error.message)
    if (said.vmm, said.version) != (binary.vmm, binary.version):
        return replace(one, problem=f"it says that it is {TITLES[said.vmm]} {said.version}")
    return replace(one, binary=replace(binary, unasked=said.unasked))


def supported() -> str:
    """Return the supported versions, as a hint. Pure."""
    kinds = [f"{TITLES[vmm]} {oldest} and newer" for vmm, oldest in OLDEST.items()]
    return f"Supported are {', '.join(kinds)}."


async def _same(vmm: Vmm, version: Version, jailer: Copy, terms: Terms) -> None:
    if vmm is not Vmm.FIRECRACKER:
        raise InvalidArgument(f"{TITLES[vmm]} has no jailer.", hint="Leave out --jailer.")
    name, its_version = await _printed(jailer, terms)
    if name != _JAILER:
        raise InvalidArgument(
            f"{jailer.source} is no jailer, but {name} {its_version}.",
            hint=JAILER_WANTED,
        )
    if its_version != version:
        raise InvalidArgument(
            f"{jailer.source} is the jailer of {its_version}, and Firecracker is {version}.",
            hint=JAILER_WANTED,
        )


async def _printed(program: Copy, terms: Terms) -> tuple[str, Version]:
    """Return the name and the version in the first line that `--version` prints."""
    async with running(program.path, ["--version"], terms.place) as trial:
        try:
            async with asyncio.timeout(terms.seconds):
                code, text = await trial.ended()
        except TimeoutError:
            raise TimedOut(
                f"{program.source} --version did not end within {terms.seconds:g} s.", hint=WANTED
            ) from None
    found = _BANNER.fullmatch(text.partition("\n")[0].strip().lower())
    if found is not None and code == 0:
        with contextlib.suppress(ValueError):
            return found[1], Version.parse(found[2])
    raise _no_version(program, code, text)


def _no_version(program: Copy, code: int, text: str) -> WaggleError:
    words = _clean(text) or "nothing"
    if code in _CANNOT_RUN and "failed to execute" in text:
        return SetupIncomplete(
            f"{program.source} cannot be started here: {words}",
            hint="The data directory must not be mounted noexec.",
        )
    end = f"ended with {code}" if code else "ended"
    return InvalidArgument(
        f"{program.source} --version names no VMM: it {end} and printed {words}", hint=WANTED
    )


async def _answered(
    program: Copy, vmm: Vmm, version: Version, ask: AskVersion, terms: Terms
) -> str:
    """Start the program with an API, and return the version that it answers."""
    options, is_ch = ["--api-sock", API], vmm is Vmm.CLOUD_HYPERVISOR
    if is_ch:
        options = ["--api-socket", f"path={API}"]
    async with running(program.path, options, terms.place, kvm=is_ch) as trial:
        try:
            async with asyncio.timeout(terms.seconds):
                if await trial.listens():
                    return await ask(trial.dial, vmm, version)
                _, words = await trial.ended()
        except VmmError as error:
            raise InvalidArgument(
                f"The API of {program.source} is not that of {TITLES[vmm]}: {error.reason}.",
                hint=_RELEASE,
            ) from error
        except (TimeoutError, OSError) as error:
            raise TimedOut(
                f"The API of {program.source} did not answer: {str(error) or 'no time left'}.",
                hint=_RELEASE,
            ) from error
    raise SetupIncomplete(
        f"{program.source} does not start here: {_clean(words) or 'it printed nothing'}",
        hint=_RELEASE,
    )


def _clean(text: str) -> str:
    """Return the last line of a program's output, for a message."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = lines[-1].strip() if lines else ""
    return "".join(c if c.isprintable() else "?" for c in line)[:300]
