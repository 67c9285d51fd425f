# SPDX-License-Identifier: Apache-2.0
"""How a job becomes the result of a tool, as a model and as text. Pure.

Called by `waggle.mcp.tools` and `results.images`. Output is cut and cleaned here and nowhere else,
so both copies of it are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_types import ContentBlock

from waggle.domain.programs import MAX_COMMAND
from waggle.domain.programs.job import JobState, JobView, StreamName
from waggle.domain.programs.text import printed
from waggle.mcp.errors import clean
from waggle.mcp.results import Hint, rfc3339, share
from waggle.mcp.results.displays import chart_lines, displays_meta, shown_displays
from waggle.mcp.results.jobs import (
    CommandOutput,
    FailureCause,
    LeftProgram,
    ProgramOutput,
    RunOutput,
    shown_ms,
    took,
)
from waggle.mcp.uris import output_uri

_RUNNING = "read_job waits for its end, shows what it prints{more} or kills it."


@dataclass(frozen=True, slots=True)
class JobShown:
    """A job as a model, pictures that it displayed, hints on what the model lacks, and `_meta`."""

    output: CommandOutput
    pictures: Sequence[ContentBlock]
    hints: Sequence[Hint]
    meta: Mapping[str, Any]


def command_output(view: JobView, characters: int) -> tuple[CommandOutput, Sequence[Hint]]:
    """Return a job as `job_shown` does, without pictures."""
    made = job_shown(view, characters, pictures=False)
    return made.output, made.hints


def job_shown(
    view: JobView, characters: int, *, pictures: bool = True, linked: bool = True
) -> JobShown:
    """Return a job with at most `characters` of output, and hints on the rest of it.

    `linked` means that its resources can be read, which is not so when its environment is gone.
    """
    displays = shown_displays(view, characters, pictures=pictures, linked=linked)
    stdout, stderr = share(view.stdout, view.stderr, characters, displays.inserts)
    output = CommandOutput(
        job_id=view.number,
        status=view.status,
        stdout=printed(stdout, displays.inserts),
        stderr=printed(stderr),
        exit_code=view.exit_code,
        duration_ms=shown_ms(view.duration, view.state),
        signal=view.signal or "",
        stdout_bytes_cut=stdout.dropped,
        stderr_bytes_cut=stderr.dropped,
        ends_at=rfc3339(view.ends_at) if view.ends_at else "",
        stdout_uri=_uri(view, StreamName.STDOUT) if stdout.dropped else "",
        stderr_uri=_uri(view, StreamName.STDERR) if stderr.dropped else "",
        diagnosis=_cause(view),
        charts=displays.charts,
        displays_uri=displays.uri,
        left_running=[
            LeftProgram(pid=program.pid, command=clean(program.command, MAX_COMMAND))
            for program in view.left.programs
        ],
    )
    streams = ((StreamName.STDOUT, stdout), (StreamName.STDERR, stderr))
    rest = [_rest(view, name, len(cut.head)) for name, cut in streams if cut.dropped]
    hints = [*rest, *displays.hints, *_continues(view)]
    return JobShown(output, displays.blocks, hints, displays_meta(displays.items))


def _continues(view: JobView) -> list[Hint]:
    if view.is_paused:
        return resumes(view)
    state = "It waits for its turn" if view.is_queued else ""
    if not view.is_running:
        return []
    printed = view.stdout.total
    more = f" (from offset {printed}: what is new)" if printed else ""
    return [Hint(_RUNNING.format(more=more), state)]


def resumes(view: JobView) -> list[Hint]:
    """Return what becomes of a job whose environment is paused; nothing if it is not."""
    if not view.is_paused:
        return []
    state = f"It goes on as job {view.number} when the environment is resumed"
    return [Hint("read_job with wait_seconds or any other use resumes it.", state)]


def _uri(view: JobView, name: StreamName) -> str:
    return output_uri(view.environment_id, view.number, name)


def _rest(view: JobView, name: StreamName, offset: int) -> Hint:
    stream = "" if name is StreamName.STDOUT else f", stream {name}"
    return Hint(
        f"The part that was cut: read_job with job_id {view.number}{stream}, offset {offset}."
    )


def _cause(view: JobView) -> FailureCause | None:
    found = view.diagnosis
    if found is None:
        return None
    return FailureCause(code=found.code, cause=clean(found.cause), next_step=clean(found.next_step))


def command_text(output: CommandOutput) -> str:
    """Return the text form without the note: the output, where the rest is, how it ended."""
    cut = [f"[all of it: {uri}]" for uri in (output.stdout_uri, output.stderr_uri) if uri]
    until = f", until {output.ends_at} at the latest" if output.ends_at else ""
    how = _ending(output, output.status, f"job {output.job_id}: ", until)
    images = [
        f"[image {image.path}, {image.mime_type}, {image.size} bytes]" for image in output.images
    ]
    shown = chart_lines(output.charts, output.displays_uri)
    return "\n".join([*_printed(output), *shown, *cut, how, *_left(output), *images])


def run_text(output: RunOutput) -> str:
    """Return the text form of a run whose environment is gone."""
    return "\n".join([*_printed(output), _ending(output, output.status)])


def _left(output: CommandOutput) -> list[str]:
    """Return a line with the programs that still run, such as a server started with &."""
    if not output.left_running:
        return []
    count = len(output.left_running)
    shown = ", ".join(f"{item.pid} {item.command[:60]}" for item in output.left_running[:5])
    rest = f" and {count - 5} more" if count > 5 else ""
    programs = "1 program still runs" if count == 1 else f"{count} programs still run"
    return [f"{programs}: {shown}{rest} (output from now on is not kept)"]


def _printed(output: ProgramOutput) -> list[str]:
    """Return the output of a program as lines, stderr below a line `[stderr]`."""
    stdout, stderr = output.stdout.removesuffix("\n"), output.stderr.removesuffix("\n")
    return [*([stdout] if output.stdout else []), *([f"[stderr]\n{stderr}"] if stderr else [])]


def _ending(output: ProgramOutput, status: str, of: str = "", until: str = "") -> str:
    """Return a line on how a program ended, and why it failed if known."""
    how = {
        JobState.EXITED.value: f"exit {output.exit_code}",
        JobState.SIGNALED.value: f"signaled {output.signal}",
    }.get(status, status)
    line = f"[{of}{how}{took(output.duration_ms)}{until}]"
    found = output.diagnosis
    if found is None or status == JobState.LOST:  # a lost job's error says it
        return line
    return f"{line}\n{found.code}: {found.cause} {found.next_step}".rstrip()
