# SPDX-License-Identifier: Apache-2.0
"""The fast tests that say something about the machine that runs them. Reads the tests' imports.

`./task fresh --quick` runs these in its bare root; `./task test` ran all of them beside it. What a
test only computes comes out the same on both (all fast tests take 650 s of CPU time, these 300 s).
Places are held as data with a reason; other modules count if they call a program that
`waggle setup --tests` installs, which a machine may lack or have in another version.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PLACES: Mapping[str, str] = {
    "tests/test_*.py": "the checkout, ./task, the wheel, the C library, the disk",
    "tests/app": "a server as a process: signals, limits, supervision",
    "tests/benchmarks": "processes and cgroups that they measure",
    "tests/cli/test_*.py": "setup, doctor and demo, and every command's process",
    "tests/cli/storage": "commands that work on this disk",
    "tests/fresh": "how bare roots are made, and this machine's package configuration",
    "tests/fuzz": "the C compiler's sanitizers",
    "tests/infra/cloud_hypervisor": "processes under a VMM's limits",
    "tests/infra/firecracker": "processes under a VMM's limits",
    "tests/infra/host": "preflight checks, packages, child processes",
    "tests/infra/krun": "libraries, namespaces and seccomp",
    "tests/infra/oci": "programs that make disks, mounts, overlays, file systems",
    "tests/infra/qemu": "QEMU, and the starter that confines itself",
    "tests/infra/rootfs": "the C compiler, what it makes, and the tools of file systems",
    "tests/infra/shared": "cgroups, files, confinement",
    "tests/infra/store": "SQLite, and directories of machines",
    "tests/infra/vmm": "processes, the jailer and the guard",
    "tests/lab": "the programs that make its parts",
    "tests/packages": "the tools that make packages",
    "tests/phases": "processes of the phases",
    "tests/service/local": "this host: starts of guests, network tools, mounts",
    "tests/stdio": "a server as the process of one client",
    "tests/web/test_curl.py": "curl",
}
PROGRAMS = "tests.support.programs"


def selection(root: Path) -> tuple[str, ...]:
    """Return what pytest is given, relative to `root`: places, then modules outside them."""
    places = [path for pattern in PLACES for path in sorted(root.glob(pattern))]
    inside = {module for place in places for module in _modules(place)}
    others = (module for module in _modules(root / "tests") if module not in inside)
    chosen = [*places, *(module for module in others if calls_programs(module, root))]
    return tuple(str(path.relative_to(root)) for path in chosen)


def calls_programs(module: Path, root: Path) -> bool:
    """Return whether a module imports PROGRAMS, itself or through other modules of tests."""
    seen, waiting = set[str](), set(_imports(module))
    while waiting:
        name = waiting.pop()
        seen.add(name)
        source = root / f"{name.replace('.', '/')}.py"
        if name.startswith("tests.") and source.is_file():
            waiting |= _imports(source) - seen
    return PROGRAMS in seen


def _modules(place: Path) -> Iterator[Path]:
    return iter([place] if place.is_file() else sorted(place.rglob("test_*.py")))


@cache
def _imports(source: Path) -> frozenset[str]:
    """Return the names of modules that a file may import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                found.update((module, *(f"{module}.{alias.name}" for alias in names)))
            case _:
                pass
    return frozenset(found)
