# SPDX-License-Identifier: Apache-2.0
"""The parsers of the kit and of the guest agent as fuzz targets: how their harnesses are compiled.

A harness is `kit/fuzz_NAME.c` and includes the source that it tests. Its corpus `corpus/NAME` holds
the inputs of earlier runs that reached new code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from waggle.infra.rootfs.kit import AGENT_SOURCES, GUEST_SOURCES

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
_AGENT_STARTS_PROCESSES = ("children.c", "loop.c", "relay.c", "exec.c", "start.c", "tree.c")


def _agent(*included: str) -> tuple[Path, ...]:
    """Return the agent's sources but those that the harness includes."""
    left_out = {"main.c", *_AGENT_STARTS_PROCESSES, *included}
    return tuple(sorted(path for path in AGENT_SOURCES.glob("*.c") if path.name not in left_out))


TARGETS: dict[str, tuple[Path, ...]] = {
    "users": (),
    "frame": (GUEST_SOURCES / "program.c", GUEST_SOURCES / "common.c"),
    "program": (),
    "content": (),
    "hosts": (),
    "dns": (),
    "ranges": (),
    "agent_request": _agent("audit.c", "channel.c"),
    "agent_policy": _agent("audit.c", "channel.c", "policy_file.c", "requests.c", "source.c"),
}
"""Name -> sources that the harness needs besides those that it includes."""
_CHECKS = ("-g", "-O1", "-fno-sanitize-recover=all")


def compile_target(
    name: str, target: Path, compiler: str, sanitizers: str, more: Sequence[Path] = ()
) -> None:
    """Compile a harness into the program `target`. Raises CalledProcessError."""
    is_agent = name.startswith("agent_")
    headers = AGENT_SOURCES if is_agent else GUEST_SOURCES
    sources = [HERE / "kit" / f"fuzz_{name}.c", *TARGETS[name], *more]
    flags = ["-D_GNU_SOURCE", *_CHECKS, f"-fsanitize={sanitizers}", f"-I{headers}"]
    libraries = ["-ljansson"] if is_agent else []
    argv = [compiler, *flags, "-o", str(target), *map(str, sources), *libraries]
    subprocess.run(argv, check=True)
