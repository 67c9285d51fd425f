# SPDX-License-Identifier: Apache-2.0
"""Fuzz the C parsers of kit and guest agent with libFuzzer, by coverage, from their corpora on.

`./task fuzz` runs all targets, 100,000 inputs each; name some, or give --runs. Needs clang with its
runtime (packages clang and libclang-rt-14-dev of Debian 12), which the test-suite does not: that
replays the corpora (test_corpus.py). What leads to new code is added to the corpus, minimised; an
input that fails stays in the current directory as crash-*.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.kit_targets import CORPUS, TARGETS, compile_target

_MAX_LENGTH = 4096


def main() -> int:
    parser = argparse.ArgumentParser(prog="./task fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each (100000)")
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    compiler = shutil.which("clang")
    if compiler is None:
        sys.stderr.write("fuzz: clang is missing: apt-get install clang libclang-rt-14-dev\n")
        return 2
    failed = [name for name in given.targets or TARGETS if not fuzz(name, compiler, given.runs)]
    sys.stderr.write(f"fuzz: {'failed: ' + ', '.join(failed) if failed else 'all passed'}\n")
    return 1 if failed else 0


def fuzz(name: str, compiler: str, runs: int) -> bool:
    """Fuzz one target, and add new inputs to its corpus. Return whether nothing failed."""
    with tempfile.TemporaryDirectory(prefix="waggle-fuzz-") as directory:
        program, found = Path(directory) / name, Path(directory) / "found"
        found.mkdir()
        compile_target(name, program, compiler, "fuzzer,address,undefined")
        options = [f"-max_len={_MAX_LENGTH}", "-timeout=10", "-detect_leaks=0"]
        argv = [str(program), f"-runs={runs}", *options, str(found), str(CORPUS / name)]
        if subprocess.run(argv, check=False).returncode:
            return False
        argv = [str(program), "-merge=1", *options, str(CORPUS / name), str(found)]
        return subprocess.run(argv, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
