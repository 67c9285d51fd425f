# SPDX-License-Identifier: Apache-2.0
"""What the server tells every client of when to use it, and how. Pure.

Only tools that are offered are named, so an agent is never sent after one that it does not have.
Clients cut it after 2,048 characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from waggle.domain.toolset import naming, without

_WHEN = (
    "Use waggle whenever code or commands should really run: to compute, analyse data, plot, try a "
    "library, build, test, debug or serve something, or to run what nobody has checked. It gives "
    "you isolated Linux VMs (environments) with the internet, apart from the user's machine: "
    "nothing there can be harmed, and you may be root."
)
_EXECUTE = (
    "execute runs Python, JavaScript or bash. The first call needs no environment_id: it makes an "
    "environment and returns its id. Give that id in all later calls, as files, packages and "
    "servers stay there; each run is a new process."
)
_WORK = ("write_file", "edit_file", "read_file", "list_files", "search_files", "run_command")
_TREES = ("upload_files", "download_files")
_JOBS = ("read_job", "wait_job", "kill_job", "list_jobs")
_FIRST: Mapping[str, str] = {
    "execute": _EXECUTE,
    "run_code": "run_code does one program that needs nothing before or after in one call.",
    "create_environment": "create_environment chooses more: runtime, memory, network, packages or "
    "files to begin with.",
    "install_packages": "install_packages installs from PyPI, npm or the distribution.",
}
_CREATING = naming(["create_environment"])
_THEN: Mapping[str, str] = {
    "expose_port": "expose_port gives a URL for a server that runs there, until unexpose_port.",
    "snapshot_environment": "snapshot_environment keeps a moment, memory and disk; "
    "create_environment with snapshot goes on from it; rollback_environment goes back to it; "
    "list_snapshots and delete_snapshot look after them. fork_environment copies a running "
    "environment, to try several ways from one state; pause_environment frees its resources until "
    "the next call or resume_environment.",
    "get_environment": "get_environment tells how long one has, extend_environment gives it "
    "longer.",
}
"""By the tool without which a step is left out."""
_GONE = "One that is not used is destroyed after a while, with its files: read what you need."
_ASLEEP = "One that is not used is paused to disk; the next call has it go on."
_LAST = (
    "An error says what to do next. A non-zero exit_code is the program's own result: read stderr."
)


def instructions(offered: Collection[str], *, sleep_when_idle: bool = False) -> str:
    """The text for a server that offers these tools, and has what nobody uses sleep, or end."""
    steps = [f"- {step}" for step in _steps(offered, sleep_when_idle)]
    return "\n".join([_WHEN, *steps, _LAST])


def _steps(offered: Collection[str], sleep_when_idle: bool) -> Iterator[str]:
    yield from (text for name, text in _FIRST.items() if name in offered)
    if work := [name for name in _WORK if name in offered]:
        yield f"{', '.join(work)} work in an environment, too."
    if trees := [name for name in _TREES if name in offered]:
        yield f"{' and '.join(trees)} move whole trees as archives."
    if jobs := [name for name in _JOBS if name in offered]:
        yield (
            "What is not done after wait_seconds goes on as a job, and so does what you start with "
            f"background: {', '.join(jobs)} look after it."
        )
    for name, text in _THEN.items():
        if name in offered:
            yield text if "create_environment" in offered else without(_CREATING, text)
    if "destroy_environment" in offered:
        fate = _ASLEEP if sleep_when_idle else _GONE
        yield f"destroy_environment when the work is done; list_environments has yours. {fate}"
