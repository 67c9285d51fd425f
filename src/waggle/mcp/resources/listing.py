# SPDX-License-Identifier: Apache-2.0
"""The lists of resources and templates, and completion of arguments.

Called by the handlers of this package. A list has the owner's environments and the last executions
in each, in pages. A cursor names the environment before the next page. It is only a position in the
list of the owner who sends it, so a made-up cursor, or another owner's, reveals nothing. Completion
offers environments and jobs for templates, and runtimes for prompts.
"""

from __future__ import annotations

import base64

from mcp_types import (
    Annotations,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ListResourcesResult,
    PromptReference,
    Resource,
    ResourceTemplate,
)

from waggle.domain.access import Owner
from waggle.domain.environment import Environment
from waggle.domain.errors import WaggleError
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.mcp.context import Services
from waggle.mcp.errors import invalid
from waggle.mcp.prompts import PROMPTS
from waggle.mcp.uris import (
    ARCHIVE_TEMPLATE,
    DISPLAY_TEMPLATE,
    DISPLAYS_TEMPLATE,
    ENVIRONMENT_TEMPLATE,
    FILE_TEMPLATE,
    FORM_TEMPLATE,
    NETWORK_TEMPLATE,
    STREAM_TEMPLATE,
    displays_uri,
    environment_uri,
    output_uri,
)
from waggle.service.files.trees import MAX_KEPT
from waggle.service.programs import Job
from waggle.service.programs.table import MAX_REMEMBERED

ENVIRONMENTS_LISTED = 20
"""Environments on one page."""
EXECUTIONS_LISTED = 10
"""The newest executions listed for each environment."""
MAX_CURSOR = 200

TEMPLATES = [
    ResourceTemplate(
        uri_template=ENVIRONMENT_TEMPLATE,
        name="environment",
        title="Environment",
        description="An environment as JSON: its status, and its last executions with their "
        "output's URIs. Can be subscribed to: it changes when an execution starts or ends.",
        mime_type="application/json",
    ),
    ResourceTemplate(
        uri_template=NETWORK_TEMPLATE,
        name="network",
        title="Use of the network",
        description="What an environment reaches, and the last decisions about its connections as "
        "JSON, allowed and refused ones: host, port, rule, count, bytes.",
        mime_type="application/json",
    ),
    ResourceTemplate(
        uri_template=STREAM_TEMPLATE,
        name="output",
        title="Output of an execution",
        description="The output of execution n (its job_id) on stream stdout or stderr, while it "
        "runs and afterwards. offset is in bytes and counts from the end below 0; length is bytes; "
        "search gives only the lines with that text, after their offsets. Text, or a blob where "
        "it is not UTF-8. Can be subscribed to, without a query.",
        annotations=Annotations(audience=["user", "assistant"]),
    ),
    ResourceTemplate(
        uri_template=DISPLAYS_TEMPLATE,
        name="displays",
        title="Displays of an execution",
        description="The list of what execution n displayed (pictures, tables, charts, HTML) as "
        "JSON: URIs, media types, and after how many bytes of output. Can be subscribed to, "
        "without a query.",
        mime_type="application/json",
    ),
    ResourceTemplate(
        uri_template=DISPLAY_TEMPLATE,
        name="display",
        title="Display",
        description="Display k of execution n as JSON: data by media type (base64 for images and "
        "PDF), metadata, and the chart, where known. offset and length are in bytes.",
        mime_type="application/json",
    ),
    ResourceTemplate(
        uri_template=FORM_TEMPLATE,
        name="form",
        title="One form of a display",
        description="One representation of display k by its media type, such as image/png or "
        "text/html; or chart, the data of a chart as JSON. offset and length are in bytes. Text, "
        "or a blob.",
    ),
    ResourceTemplate(
        uri_template=FILE_TEMPLATE,
        name="file",
        title="File",
        description="A file of the environment by its absolute path, without the first slash: "
        "files/tmp/chart.png is /tmp/chart.png. Percent-encode all but letters, digits and "
        "/._~-. offset and length are in bytes. Text, or a blob. Can be subscribed to, without a "
        "query, and so can a directory: it changes with everything below it.",
    ),
    ResourceTemplate(
        uri_template=ARCHIVE_TEMPLATE,
        name="archive",
        title="Archive",
        description=f"An archive of download_files, by its archive_id: the last {MAX_KEPT} of each "
        "environment, until it ends. offset and length are in bytes; a large one comes in pages.",
        mime_type="application/gzip",
    ),
]


def list_page(services: Services, cursor: str | None, *, owner: Owner) -> ListResourcesResult:
    """Return one page of the owner's resources. Raises MCPError for an invalid cursor."""
    everything = sorted(services.environments.list(owner=owner), key=_place)
    after = _decode(cursor)
    rest = [environment for environment in everything if _place(environment) > after]
    shown = rest[:ENVIRONMENTS_LISTED]
    return ListResourcesResult(
        resources=[item for one in shown for item in _resources(services, one, owner)],
        next_cursor=_encode(_place(shown[-1])) if len(rest) > len(shown) else None,
    )


def _resources(services: Services, environment: Environment, owner: Owner) -> list[Resource]:
    about = Resource(
        uri=environment_uri(environment.id),
        name=environment.name,
        title=f"Environment {environment.name}",
        description=f"{environment.runtime}, {environment.state}",
        mime_type="application/json",
    )
    jobs = services.jobs.newest(environment.id, EXECUTIONS_LISTED, owner=owner)
    return [about, *(stream for job in jobs for stream in _streams(environment, job))]


def _streams(environment: Environment, job: Job) -> list[Resource]:
    """Return a job's stdout, and its stderr and displays if it has any."""
    streams = [
        _resource(environment, job, name, output_uri(environment.id, job.number, name)).model_copy(
            update={"mime_type": "text/plain", "size": job.printed(name)}
        )
        for name in job.streams
        if job.printed(name) or name is StreamName.STDOUT
    ]
    if not job.displayed:
        return streams
    return [
        *streams,
        _resource(environment, job, "displays", displays_uri(environment.id, job.number)),
    ]


def _resource(environment: Environment, job: Job, name: str, uri: str) -> Resource:
    return Resource(
        uri=uri,
        name=f"{environment.name}/{job.number}/{name}",
        title=f"{name} of execution {job.number} in {environment.name}",
        description=f"{job.what.kind}: {job.what.summary} ({job.state})",
        mime_type="application/json",
    )


def _place(environment: Environment) -> str:
    """Return the environment's sort key: its age, then its id, as text."""
    return f"{environment.created_at.isoformat(timespec='microseconds')} {environment.id}"


def _encode(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode("ascii")


def _decode(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        raise invalid("This is no cursor.", "Use next_cursor of the page before.") from None


MAX_VALUES = 100
"""The protocol's limit for one answer."""


def complete(services: Services, params: CompleteRequestParams, *, owner: Owner) -> CompleteResult:
    """Return the values that begin with the typed text; none for unknown arguments.

    A template in it is one of TEMPLATES.
    """
    reference, name = params.ref, params.argument.name
    values: list[str] = []
    if isinstance(reference, PromptReference):
        values = [*RuntimeName] if reference.name in PROMPTS and name == "runtime" else []
    else:
        chosen = (params.context.arguments if params.context else None) or {}
        values = _values(services, name, chosen.get("id", ""), owner)
    found = [value for value in values if value.startswith(params.argument.value)]
    return CompleteResult(
        completion=Completion(
            values=found[:MAX_VALUES], total=len(found), has_more=len(found) > MAX_VALUES
        )
    )


def _values(services: Services, name: str, environment_id: str, owner: Owner) -> list[str]:
    match name:
        case "id":
            return [environment.id for environment in services.environments.list(owner=owner)]
        case "stream":
            return list(StreamName)
        case "n":
            try:
                jobs = services.jobs.newest(environment_id, MAX_REMEMBERED, owner=owner)
            except WaggleError:
                return []
            return [str(job.number) for job in jobs]
        case _:
            return []
