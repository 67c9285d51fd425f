# SPDX-License-Identifier: Apache-2.0
"""What the server tells every client of how to work with it. Pure.

Only tools that are offered are named, so an agent is never sent after one that it does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

_HEAD = 'waggle gives you throw-away Linux machines ("environments") to run code in.'
_ONCE = "For one program that needs nothing before or after, run_code does everything in one call."
_CREATE = "create_environment with a runtime (python, node or shell); keep the environment_id."
_WORK = (
    "write_file",
    "edit_file",
    "execute",
    "run_command",
    "install_packages",
    "read_file",
    "list_files",
    "search_files",
)
_TREES = ("upload_files", "download_files")
_JOBS = ("wait_job", "read_job", "kill_job", "list_jobs")
_SNAPSHOTS = (
    "snapshot_environment keeps a moment, memory and disk: {start}rollback_environment go back to "
    "it; list_snapshots and delete_snapshot look after them."
)
_COPIES = (
    "fork_environment copies a running environment, to try several ways from one state; "
    "pause_environment has one wait without its resources until the next call or "
    "resume_environment."
)
_GONE = (
    "An environment that is not used is destroyed by itself after its timeout, with its files: "
    "read what you need before."
)
_ASLEEP = (
    "An environment that is not used is paused to disk after its timeout, and the next call has it "
    "go on; when that does not come it is destroyed one day, with its files."
)
_LAST = (
    "An error says what to do next. A non-zero exit_code is the program's own result: read stderr."
)


def instructions(offered: Collection[str], *, sleep_when_idle: bool = False) -> str:
    """The text for a server that offers these tools, and has what nobody uses sleep, or end."""
    once = [_ONCE] if "run_code" in offered else []
    steps = [f"{number}. {step}" for number, step in enumerate(_steps(offered, sleep_when_idle), 1)]
    return "\n".join([_HEAD, *once, *steps, _LAST])


def _steps(offered: Collection[str], sleep_when_idle: bool) -> Iterator[str]:
    if "create_environment" in offered:
        yield _CREATE
    if work := [name for name in _WORK if name in offered]:
        yield (
            f"{', '.join(work)} with that id, as often as you like. Files and packages stay; every "
            "run is a new process."
        )
    if trees := [name for name in _TREES if name in offered]:
        yield f"{' and '.join(trees)} move whole trees as archives."
    if jobs := [name for name in _JOBS if name in offered]:
        yield (
            "What is not done after wait_seconds goes on as a job, and so does what you start with "
            f"background: {', '.join(jobs)} look after it."
        )
    if "expose_port" in offered:
        yield (
            "expose_port gives a URL for a server that runs in the environment, until "
            "unexpose_port."
        )
    if "snapshot_environment" in offered:
        yield _SNAPSHOTS.format(
            start="create_environment with snapshot and " if "create_environment" in offered else ""
        )
        yield _COPIES
    if "destroy_environment" in offered:
        yield (
            f"destroy_environment when the work is done. {_ASLEEP if sleep_when_idle else _GONE} "
            "get_environment tells how long it has, extend_environment gives it longer."
        )
