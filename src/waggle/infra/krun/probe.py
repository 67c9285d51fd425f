# SPDX-License-Identifier: Apache-2.0
"""A probe for whether libkrun can be used here, and if not, why and how to fix it.

Used by the choice of a hypervisor and by the preflight checks. Loads the library and looks up its
functions, of which it knows the versions; starts nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waggle.infra.krun.library import KrunError, Libkrun
from waggle.shipped import document

# 1.17 is the first version with everything that is required. `krun_add_disk3` and
# `krun_disable_implicit_init` are used where they exist: without a virtio-fs root there is no
# implicit init anyway. 2.x has no implicit devices, and lacks the calls that turn them off.
SINCE: Final = {
    "krun_create_ctx": "1.0",
    "krun_set_vm_config": "1.0",
    "krun_set_console_output": "1.0",
    "krun_start_enter": "1.0",
    "krun_add_disk2": "1.10",
    "krun_init_log": "1.13",
    "krun_set_kernel": "1.17",
    "krun_add_vsock_port2": "1.17",
    "krun_get_max_vcpus": "1.17",
    "krun_add_virtio_console_multiport": "1.17",
    "krun_add_console_port_inout": "1.17",
    "krun_disable_implicit_vsock": "1.17",
    "krun_add_vsock": "1.17",
    "krun_add_disk3": "1.17",
    "krun_disable_implicit_init": "1.19",
}
"""A version that has the function: the first one, where the release notes name it."""

OPTIONAL: Final = frozenset({"krun_add_disk3", "krun_disable_implicit_init"})
GONE_IN_2: Final = frozenset({"krun_set_console_output", "krun_disable_implicit_vsock"})
OLDEST: Final = "1.17"
_NAMES: Final = {
    "linux": ("libkrun.so.1",),
    "darwin": ("libkrun.1.dylib", "/opt/homebrew/lib/libkrun.1.dylib"),
}
_NEXT: Final = {"linux": "libkrun.so.2", "darwin": "libkrun.2.dylib"}
_DISKS: Final = frozenset({"krun_add_disk2", "krun_add_disk3"})


@dataclass(frozen=True, slots=True)
class KrunFacts:
    """The result. `problem` is empty when the library can be used; `library` then loads it."""

    library: str
    problem: str = ""
    mend: str = ""


def read_krun_facts(configured: Path | None = None) -> KrunFacts:
    """Examine the configured library, or the one that the loader finds. Never raises."""
    names = (str(configured),) if configured else _NAMES.get(sys.platform, _NAMES["linux"])
    reasons: list[str] = []
    for name in names:
        try:
            library = Libkrun(name)
        except KrunError as error:
            reasons.append(_foreign(name) or str(error))
            continue
        return _judged(_path_of(name), missing(library))
    if configured is None and _loads(_NEXT.get(sys.platform, _NEXT["linux"])):
        return _is_2(names[0])
    return KrunFacts(
        names[0],
        reasons[-1],
        f"Install libkrun 1.x ({document('hypervisors.md')} says how), or set WAGGLE_LIBKRUN_PATH.",
    )


def missing(library: Libkrun) -> frozenset[str]:
    """Return the functions that waggle uses and this library lacks."""
    return frozenset(name for name in SINCE if not library.has(name))


def _judged(name: str, lacks: frozenset[str]) -> KrunFacts:
    """Decide from the missing functions. Pure."""
    required = lacks - OPTIONAL
    if not required:
        return KrunFacts(name)
    if required >= GONE_IN_2 or "krun_create_ctx" in required or ".so.2" in name:
        return _is_2(name)
    if required <= _DISKS:
        return KrunFacts(
            name,
            "libkrun was built without block devices: it has no krun_add_disk2.",
            "Use a libkrun that was built with BLK=1 (cargo feature `blk`).",
        )
    shown = ", ".join(sorted(required))
    return KrunFacts(
        name, f"libkrun is too old: it has no {shown}.", f"Use libkrun {OLDEST} or later, below 2."
    )


def _is_2(name: str) -> KrunFacts:
    return KrunFacts(
        name,
        "this is no libkrun 1.x, but 2.x or something else: calls that waggle needs are gone.",
        f"Use libkrun {OLDEST} or later, below 2.",
    )


def _foreign(name: str) -> str:
    """Explain a library for another architecture, which the loader reports as absent."""
    try:
        with Path(name).open("rb") as library, Path("/proc/self/exe").open("rb") as program:
            theirs, ours = library.read(20), program.read(20)
    except (OSError, ValueError):
        return ""
    same = (theirs[4:6], theirs[18:]) == (ours[4:6], ours[18:])  # class, byte order; machine
    is_foreign = theirs[:4] == ours[:4] and len(theirs) == len(ours) and not same
    return f"libkrun cannot be loaded: {name} is for another architecture." if is_foreign else ""


def _path_of(name: str) -> str:
    """Return the path of a loaded library, because the runner's loader may search elsewhere."""
    try:
        maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape")
    except OSError:
        return name
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines())
    return next((path for path in paths if Path(path).name.startswith(name)), name)


def _loads(name: str) -> bool:
    try:
        Libkrun(name)
    except KrunError:
        return False
    return True
