# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.attacks [--only NAME ...] [--seconds N] [--write] [--json FILE]`.

Behind `./task attacks`. Each attack runs for N seconds against its own server, beside another
owner's work; up to a minute of calm follows. Prints the results. With --write a finished attack
gets its row in docs/security.md at once, so that --missing can continue a run that was cut. Exit
code 1 if a figure is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from benchmarks.attacks.figures import Figures, exceeded
from benchmarks.attacks.report import page, rows_of, terminal
from benchmarks.attacks.run import attacked
from benchmarks.attacks.table import WHAT
from benchmarks.machine import describe

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line. Exits if it is wrong."""
    parser = argparse.ArgumentParser(prog="attacks", description="Attack a server, and measure.")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these attacks")
    parser.add_argument("--missing", action="store_true", help="those without a row in the table")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack (60)")
    parser.add_argument("--write", action="store_true", help="keep the rows in the docs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    parser.add_argument("--list", action="store_true", help="name the attacks")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.only) - set(WHAT))
    if unknown:
        parser.error(f"there is no attack {', '.join(unknown)}; there are {', '.join(WHAT)}")
    return options


def wanted(only: list[str], *, is_missing: bool, text: str) -> list[str]:
    """Return the names to run, in the order of the table."""
    known = set(rows_of(text)) if is_missing else set[str]()
    return [name for name in WHAT if (not only or name in only) and name not in known]


def _end_well() -> None:
    """Make SIGINT and SIGTERM cancel a running attack with its cleanup, also in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupted)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def main(argv: list[str]) -> int:
    """Attack, print and store, and return the exit code."""
    options = parse(argv)
    if options.list:
        print("\n".join(WHAT))
        return 0
    names = wanted(options.only, is_missing=options.missing, text=PAGE.read_text("utf-8"))
    results: list[Figures] = []
    _end_well()
    for number, name in enumerate(names, 1):
        now = datetime.now(UTC).strftime("%H:%M:%S")
        sys.stderr.write(f"{now} {number} of {len(names)}: {name} ...\n")
        results.append(asyncio.run(attacked(name, options.seconds)))
        print(terminal(results[-1]), flush=True)
        if options.json is not None:
            options.json.write_text(
                json.dumps([asdict(figures) for figures in results], indent=1), "utf-8"
            )
        if options.write:
            on = f"Each for {options.seconds:g} s, on {describe()}."
            PAGE.write_text(page(PAGE.read_text("utf-8"), results, on), "utf-8")
    over = [figures.name for figures in results if exceeded(figures)]
    if over:
        sys.stderr.write(f"Over the limits: {', '.join(over)}.\n")
    return 1 if over else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
