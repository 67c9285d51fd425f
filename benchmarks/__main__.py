# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks [NAMES] [--rounds N] [--cycles N | --full] [--write]`, or `./task bench`.

Measures the named groups, by default all of them, prints the table, and with --write stores it in
docs/benchmarks.md. Exit code 1 if a figure is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import (
    agent,
    calls,
    claim,
    cold,
    contexts,
    copies,
    cycles,
    direct,
    execute,
    files,
    firecracker,
    images,
    krun,
    listing,
    living,
    load,
    memory,
    rules,
    runtimes,
    sessions,
    template,
    tokens,
)
from benchmarks.machine import describe
from benchmarks.options import Options
from benchmarks.report import missed, page, read_page, terminal
from benchmarks.table import GROUPS, Result

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
CYCLES, FULL_CYCLES = 20, 200
MEASURES: dict[str, Callable[[Options], Awaitable[list[Result]]]] = {
    "cold": cold.measure,
    "template": template.measure,
    "copies": copies.measure,
    "living": living.measure,
    "execute": execute.measure,
    "contexts": contexts.measure,
    "claim": claim.measure,
    "files": files.measure,
    "memory": memory.measure,
    "cycles": cycles.measure,
    "list": listing.measure,
    "calls": calls.measure,
    "load": load.measure,
    "sessions": sessions.measure,
    "images": images.measure,
    "rules": rules.measure,
    "direct": direct.measure,
    "agent": agent.measure,
    "tokens": tokens.measure,
    "runtimes": runtimes.measure,
    "krun": krun.measure,
    "firecracker": firecracker.measure,
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line. Exits if it is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure waggle.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=_positive, help="rounds of each comparison")
    parser.add_argument("--cycles", type=_positive, help=f"default {CYCLES}")
    parser.add_argument("--full", action="store_true", help=f"{FULL_CYCLES} cycles (minutes)")
    parser.add_argument("--write", action="store_true", help="keep the table in the docs")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.names) - set(GROUPS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _tick(text: str) -> None:
    """Show one line on a terminal, which the next one overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


async def run(
    names: list[str], options: Options, keep: Callable[[list[Result]], None]
) -> list[Result]:
    """Measure group after group; print and keep the results of each when it is done."""
    results: list[Result] = []
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        found = await MEASURES[name](options)
        _tick("")
        print(terminal(found), flush=True)
        keep(found)
        results += found
    return results


def _write(results: list[Result]) -> None:
    kept = read_page(PAGE.read_text("utf-8")) if PAGE.exists() else {}
    kept |= {result.key: result for result in results}
    PAGE.write_text(page(kept, describe()), "utf-8")
    sys.stderr.write(f"Written to {PAGE}.\n")


def main(argv: list[str]) -> int:
    """Measure, print and store, and return the exit code."""
    asked = parse(argv)
    cycles_wanted: int = asked.cycles or (FULL_CYCLES if asked.full else CYCLES)
    options = Options(rounds=asked.rounds, cycles=cycles_wanted, tick=_tick)
    names = [name for name in GROUPS if name in asked.names or not asked.names]
    results = asyncio.run(run(names, options, _write if asked.write else lambda _found: None))
    if len(names) > 1:
        print(f"\n{terminal(results)}")
    over = missed(results)
    if over:
        sys.stderr.write(f"Over the limit: {', '.join(over)}.\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
