# SPDX-License-Identifier: Apache-2.0
"""The result model of restart_environment. Pure. Called by `waggle.mcp.tools.restart`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from waggle.domain.environment import Environment
from waggle.domain.programs.job import JobBrief, JobKind
from waggle.mcp.results import NOTE
from waggle.mcp.results.environments import STATUSES
from waggle.service.environments.restarting import Restarted

_MOST_NAMED = 20
_CUT = (
    "Its machine did not end by itself and was killed: what was not yet on its disk is lost, as "
    "in a power cut."
)


class RestartedEnvironment(BaseModel):
    """An environment that was booted again from its disk."""

    name: str
    status: str = Field(description=STATUSES)
    seconds: float = Field(default=0.0, description="How long it took.")
    killed: bool = Field(
        default=False, description="Whether its machine had to be killed, as in a power cut."
    )
    gone: list[str] = Field(
        default_factory=list[str], description="Jobs and contexts that ran until then."
    )
    note: str = Field(default="", description=NOTE)


def restarted(done: Restarted, going: Sequence[JobBrief]) -> RestartedEnvironment:
    """Return the result; `going` are the jobs that ran before."""
    gone = [_named(job) for job in going[:_MOST_NAMED]]
    if len(going) > _MOST_NAMED:
        gone.append(f"{len(going) - _MOST_NAMED} more")
    return RestartedEnvironment(
        name=done.environment.name,
        status=done.environment.state.value,
        seconds=round(done.seconds, 1),
        killed=not done.gracefully,
        gone=gone,
        note=" ".join(filter(None, ("" if done.gracefully else _CUT, _of_ports(done.environment)))),
    )


def _of_ports(environment: Environment) -> str:
    """Return what is to be done for its exposed ports, whose programs have ended."""
    ports = [str(exposed.port) for exposed in environment.exposed]
    if not ports:
        return ""
    named = f"Port {ports[0]} is" if len(ports) == 1 else f"Ports {', '.join(ports)} are"
    return f"{named} still exposed under the same URL: start what listens there again."


def _named(job: JobBrief) -> str:
    return f"context {job.summary}" if job.kind is JobKind.CONTEXT else f"job {job.number}"


def restarted_text(result: RestartedEnvironment) -> str:
    """Return it as a text, without its note."""
    gone = f" Gone: {', '.join(result.gone)}." if result.gone else ""
    return (
        f"Environment {result.name} is {result.status} again after {result.seconds:g} s, with its "
        f"files; no program runs in it.{gone}"
    )
