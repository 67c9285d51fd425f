# SPDX-License-Identifier: Apache-2.0
"""The record that the kit's launcher leaves of a failed run (rootfs/kit/guest/why.c). Pure.

Root in the guest can write it, so it is parsed strictly: what is not as why.c writes it is as if it
were not there, and every value is bounded.
"""

from __future__ import annotations

import re
from dataclasses import replace

from waggle.domain.diagnosis.evidence import NO_RECORD, Record, Space

MAX_RECORD = 8_192
"""Bytes of a record; why.c prints no more."""
_MAX_PATH = 512
_MAX_DIGITS = 20
_COUNTS = {
    "exit": 1,
    "signal": 1,
    "exec": 1,
    "directory": 1,
    "oom": 1,
    "memory": 3,
    "forks": 2,
    "disk": 2,
    "inodes": 2,
    "shm": 2,
    "unrouted": 1,
    "unheard": 1,
}
MAX_PROGRAMS = 64
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_PATHS = frozenset({"file", "needs", "crlf"})


def parse_record(data: bytes, run_id: str) -> Record:
    """The record of that run; NO_RECORD when it is another's or not a record at all."""
    lines = data[: MAX_RECORD + 1].decode("utf-8", "replace").split("\n")
    if len(data) > MAX_RECORD or lines[0] != f"id {run_id}" or lines[-1]:
        return NO_RECORD
    numbers: dict[str, list[int]] = {}
    paths: dict[str, str] = {}
    have: frozenset[str] | None = None
    for line in lines[1:-1]:
        key, _, rest = line.partition(" ")
        values = rest.split(" ")
        if key in numbers or key in paths:
            return NO_RECORD
        if key == "have" and have is None:
            have = frozenset(rest.split()[:MAX_PROGRAMS])
        elif key in _PATHS and len(rest) <= _MAX_PATH:
            paths[key] = rest
        elif len(values) == _COUNTS.get(key) and all(map(_is_number, values)):
            numbers[key] = [int(value) for value in values]
        else:
            return NO_RECORD
    return replace(_record(numbers, paths), have=have)


def is_program(name: str) -> bool:
    """Whether the guest may be asked for a program of this name."""
    return _PROGRAM.fullmatch(name) is not None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _record(numbers: dict[str, list[int]], paths: dict[str, str]) -> Record:
    def one(key: str) -> int | None:
        return numbers[key][0] if key in numbers else None

    def space(key: str) -> Space | None:
        return Space(*numbers[key]) if key in numbers else None

    peak, limit, shared = numbers.get("memory", [0, 0, 0])
    refused, processes = numbers.get("forks", [0, 0])
    return Record(
        exit_code=one("exit"),
        signal=one("signal"),
        exec_error=one("exec"),
        directory_error=one("directory"),
        file=paths.get("file", ""),
        needs=paths.get("crlf", paths.get("needs", "")),
        needs_carriage_return="crlf" in paths,
        oom_kills=one("oom") or 0,
        memory_peak=peak,
        memory_limit=limit,
        memory_shared=shared,
        forks_refused=refused,
        process_limit=processes,
        disk=space("disk"),
        inodes=space("inodes"),
        shm=space("shm"),
        unrouted=one("unrouted") or 0,
        unheard=one("unheard") or 0,
    )
