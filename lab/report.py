# SPDX-License-Identifier: Apache-2.0
"""The results of a run, as files and as text. Pure except for reading and writing files.

The report disk is a tar that the outer machine wrote; it may be cut if the machine was killed.
"""

from __future__ import annotations

import tarfile
import xml.etree.ElementTree as ET  # the outer machine wrote the text, and expat bounds expansion
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lab.events import Ended
from lab.outer import Outcome

_MAX_FILE = 64 << 20
_EXCERPT_LINES = 12
_TAIL_LINES = 15
KILLED_AT_DEADLINE = 124
NO_TESTS = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed or could not run, and an excerpt of the reason."""

    test: str
    why: str


@dataclass(frozen=True, slots=True)
class Tests:
    """One JUnit report. `skipped` names the skipped tests with reasons."""

    total: int
    failures: tuple[Failure, ...]
    skipped: tuple[Failure, ...]


def unpack(disk: Path, target: Path) -> list[Path]:
    """Write the regular files of the report into `target` and return those that are whole."""
    written: list[Path] = []
    try:
        with tarfile.open(disk, "r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isreg() or member.size > _MAX_FILE or name in ("", ".", ".."):
                    continue
                data = archive.extractfile(member)
                if data is not None:
                    path = target / name
                    path.write_bytes(data.read())
                    written.append(path)
    except (tarfile.TarError, EOFError):
        pass  # nothing was delivered, or the end is missing
    return written


def parse_junit(text: str) -> Tests:
    """Parse a report of pytest. Raises ValueError if it is none. Pure."""
    try:
        root = ET.fromstring(text)  # noqa: S314 (see the import)
    except ET.ParseError as error:
        raise ValueError(f"not a JUnit report: {error}") from error
    cases = list(root.iter("testcase"))
    return Tests(
        len(cases),
        tuple(_collect(cases, ("failure", "error"))),
        tuple(_collect(cases, ("skipped",))),
    )


def _collect(cases: Iterable[ET.Element], kinds: Sequence[str]) -> Iterable[Failure]:
    for case in cases:
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        for kind in kinds:
            for found in case.iter(kind):
                text = (found.text or found.get("message") or "").strip()
                yield Failure(name, "\n".join(text.splitlines()[-_EXCERPT_LINES:]))


def job_words(ended: Ended, directory: Path) -> tuple[bool, list[str]]:
    """Return whether a job succeeded, and the lines that describe it."""
    junit = directory / f"{ended.job}.xml"
    head = f"{ended.job}: {ended.seconds:.0f} s"
    if junit.exists():
        try:
            tests = parse_junit(junit.read_text("utf-8", "replace"))
        except ValueError as error:
            return False, [f"{head}, {error}"]
        good = ended.code == 0 and not tests.failures and tests.total > 0
        skipped = f", {len(tests.skipped)} skipped" if tests.skipped else ""
        words = [f"{head}, {tests.total} tests, {len(tests.failures)} failed{skipped}"]
        for failure in tests.failures:
            words += [
                f"  FAILED {failure.test}",
                *(f"    {line}" for line in failure.why.split("\n")),
            ]
        words += [f"  skipped {skip.test}: {skip.why.splitlines()[-1]}" for skip in tests.skipped]
        if not good and not tests.failures:
            words += [f"  {_code(ended.code)}", *_tail(directory / f"{ended.job}.log")]
        return good, words
    if ended.code == 0:
        return True, [head]
    return False, [f"{head}, {_code(ended.code)}", *_tail(directory / f"{ended.job}.log")]


def _code(code: int) -> str:
    reasons = {KILLED_AT_DEADLINE: "ended at its deadline", NO_TESTS: "no test was selected"}
    return reasons.get(code, f"exit code {code}")


def _tail(log: Path) -> list[str]:
    if not log.exists():
        return ["    (no output was delivered)"]
    lines = log.read_text("utf-8", "replace").splitlines()
    return [f"    {line}" for line in lines[-_TAIL_LINES:]]


def summary(outcome: Outcome, wanted: Sequence[str], directory: Path) -> tuple[bool, str]:
    """Return whether all jobs succeeded, and the whole story in lines."""
    results = [job_words(ended, directory) for ended in outcome.progress.ended]
    good = all(result[0] for result in results) and not outcome.problem
    lines = [line for result in results for line in result[1]]
    done = {ended.job for ended in outcome.progress.ended}
    missing = [name for name in wanted if name not in done]
    if missing:
        good = False
        lines.append(f"not run to the end: {', '.join(missing)}")
    if outcome.problem:
        lines.append(f"{outcome.problem[0].upper()}{outcome.problem[1:]}.")
    return good, "\n".join(lines)
