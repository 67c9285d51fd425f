# SPDX-License-Identifier: Apache-2.0
"""Show how a program stands: what it printed, within a budget, and how it ended. Pure."""

from __future__ import annotations

from waggle.domain.job import JobState, JobView, StreamName
from waggle.domain.left import MAX_COMMAND
from waggle.domain.toolset import Offer
from waggle.mcp.budget import share
from waggle.mcp.errors import clean
from waggle.mcp.job_results import CommandOutput, FailureCause, LeftProgram
from waggle.mcp.resources.uris import output_uri
from waggle.mcp.results import rfc3339

_RUNNING = "wait_job waits for its end, read_job shows its output, kill_job ends it"


def command_output(view: JobView, offer: Offer) -> CommandOutput:
    """The structured form, its streams cut to what every client accepts; advice heeds `offer`."""
    stdout, stderr = share(view.stdout, view.stderr)
    return CommandOutput(
        job_id=view.number,
        status=view.state.value,
        stdout=stdout.text(),
        stderr=stderr.text(),
        exit_code=view.exit_code,
        duration_ms=round(view.duration * 1000),
        signal=view.signal,
        timed_out=view.state is JobState.TIMED_OUT,
        stdout_bytes_cut=stdout.dropped,
        stderr_bytes_cut=stderr.dropped,
        ends_at=rfc3339(view.ends_at) if view.is_running else None,
        stdout_uri=output_uri(view.environment_id, view.number, StreamName.STDOUT),
        stderr_uri=output_uri(view.environment_id, view.number, StreamName.STDERR),
        diagnosis=_cause(view, offer),
        left_running=[
            LeftProgram(pid=each.pid, command=clean(each.command, MAX_COMMAND))
            for each in view.left.programs
        ],
    )


def _cause(view: JobView, offer: Offer) -> FailureCause | None:
    found = view.diagnosis
    if found is None:
        return None
    cause, next_step = clean(found.cause), clean(offer.advice(found.next_step))
    return FailureCause(code=found.code, cause=cause, next_step=next_step)


def command_text(output: CommandOutput, offer: Offer) -> str:
    """The text for a model: what was printed, where the rest is, then how it ended."""
    parts = [
        f"{name}:\n{text.removesuffix(chr(10))}"
        for name, text in (("stdout", output.stdout), ("stderr", output.stderr))
        if text
    ]
    read = f"read_job with job_id {output.job_id}, or " if offer.has("read_job") else ""
    cut = [
        f"[all of {name}: {read}the resource {uri}]"
        for name, dropped, uri in (
            ("stdout", output.stdout_bytes_cut, output.stdout_uri),
            ("stderr", output.stderr_bytes_cut, output.stderr_uri),
        )
        if dropped
    ]
    ending = [_ending(output, offer), *_left(output), *_why(output)]
    return "\n".join([*(parts or ["(no output)"]), *cut, *ending])


def _left(output: CommandOutput) -> list[str]:
    """What goes on, as a line: that of a server started with & is told like this."""
    if not output.left_running:
        return []
    count = len(output.left_running)
    shown = ", ".join(f"{each.pid} {each.command[:60]}" for each in output.left_running[:5])
    rest = f" and {count - 5} more" if count > 5 else ""
    verb = "1 program goes on" if count == 1 else f"{count} programs go on"
    return [f"{verb}: {shown}{rest} (output from now on is not kept)"]


def _why(output: CommandOutput) -> list[str]:
    """The diagnosis as a line; of a lost job its error tells the same."""
    found = output.diagnosis
    if found is None or output.status == JobState.LOST:
        return []
    return [f"{found.cause} {found.next_step}".strip()]


def _ending(output: CommandOutput, offer: Offer) -> str:
    took = f"{output.duration_ms} ms"
    match output.status:
        case JobState.RUNNING:
            how = offer.advice(_RUNNING)
            until = f"; it is killed at {output.ends_at} at the latest"
            return f"still running after {took} as job {output.job_id}{how and f': {how}'}{until}"
        case JobState.TIMED_OUT:
            return f"timed out after {took}; its processes were killed"
        case JobState.SIGNALED:
            return f"ended by signal {output.signal} after {took}"
        case JobState.KILLED:
            return f"killed after {took}, with all its processes"
        case JobState.LOST:
            return f"lost after {took}"
        case _:
            return f"exit code: {output.exit_code} ({took})"
