# SPDX-License-Identifier: Apache-2.0
"""`python -m packages` or `./task packages`: makes the packages in dist/packages.

`--only NAME` makes one of them, `--no-lint` does not examine them. Exit code 2 if they could not be
made or are not clean.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from lab.store import Store

from packages import agent, tree
from packages.make import CHECKOUT, MAKERS, Workshop, date_of, deliver, make
from waggle.config import load
from waggle.config.places import Places
from waggle.domain.errors import WaggleError
from waggle.infra.shared import debian


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line. Exits if it is wrong."""
    parser = argparse.ArgumentParser(prog="packages", description="Make .deb and .rpm packages.")
    parser.add_argument("--only", action="append", choices=sorted(MAKERS), help="make only this")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "dist/packages", help="where to")
    parser.add_argument(
        "--sources", type=Path, default=CHECKOUT / agent.SOURCES, help="those of the agent"
    )
    parser.add_argument("--no-lint", action="store_true", help="do not examine them")
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> list[Path]:
    """Make what the command line asks for. Raises WaggleError."""
    settings = load()
    mirror = await asyncio.to_thread(debian.mirror, settings.debian_mirror)
    store = Store(Places.of(settings).cache / "packages")
    root = await tree.ensure(store, mirror, say)
    with tempfile.TemporaryDirectory(prefix="waggle-packages-") as place:
        workshop = Workshop(root, Path(place), date_of(CHECKOUT), say, options.sources)
        made = await make(workshop, options.only or list(MAKERS), lint=not options.no_lint)
        return await deliver(made, options.out)


def say(line: str) -> None:
    """Show a line of progress."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    try:
        made = asyncio.run(run(parse(argv)))
    except WaggleError as error:
        say(f"packages: {error.message} {error.hint}".rstrip())
        return 2
    except KeyboardInterrupt:
        say("packages: interrupted; nothing is left")
        return 130
    for file in made:
        print(file)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
