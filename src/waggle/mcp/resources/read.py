# SPDX-License-Identifier: Apache-2.0
"""Reading of resources, in pages that fit: environments, output of programs, files and archives.

Called by the handlers of this package with an owner; raises the errors of the services. The `_meta`
of a page has its offset, that of the next page and the whole size, under PAGE_META_KEY.
"""

from __future__ import annotations

import base64
from typing import Any

from mcp_types import BlobResourceContents, TextResourceContents
from pydantic import BaseModel

from waggle.domain.access import Owner
from waggle.domain.programs.display import records_of
from waggle.mcp.context import Services, apart
from waggle.mcp.resources.displays import Form, form_of, listed
from waggle.mcp.results.environments import EnvironmentSummary, summary
from waggle.mcp.results.images import page_type
from waggle.mcp.results.network import network_content
from waggle.mcp.results.pages import (
    BASE64_PAGE_BYTES,
    DEFAULT_PAGE_BYTES,
    SMALLEST_PAGE,
    Page,
    exact_page,
    page,
    read_page,
)
from waggle.mcp.uris import (
    ARCHIVE_TYPE,
    Address,
    ArchiveAddress,
    DisplayAddress,
    DisplaysAddress,
    EnvironmentAddress,
    FileAddress,
    NetworkAddress,
    Range,
    StreamAddress,
    displays_uri,
    output_uri,
)
from waggle.service.programs import Job

PAGE_META_KEY = "waggle/page"
EXECUTIONS_SHOWN = 20

Contents = TextResourceContents | BlobResourceContents


class StreamItem(BaseModel):
    """One stream of an execution."""

    uri: str
    bytes: int


class ExecutionItem(BaseModel):
    """An execution of an environment; `displays` are bytes of records, of which a list is made."""

    job_id: int
    tool: str
    summary: str
    status: str
    stdout: StreamItem
    stderr: StreamItem
    displays: StreamItem | None = None


class EnvironmentContent(EnvironmentSummary):
    """The content of an environment resource, as JSON."""

    executions: list[ExecutionItem]


async def read_resource(
    services: Services, uri: str, address: Address, *, owner: Owner, executions: int
) -> Contents:
    """Return the resource at `address`, which `uri` names. Raises the errors of the services.

    An environment has at most so many `executions`.
    """
    match address:
        case EnvironmentAddress():
            return _environment(services, uri, address, owner, executions)
        case NetworkAddress():
            return await _network(services, uri, address, owner)
        case StreamAddress():
            return await _stream(services, uri, address, owner)
        case DisplaysAddress() | DisplayAddress():
            return await _displayed(services, uri, address, owner)
        case FileAddress():
            return await _file(services, uri, address, owner)
        case ArchiveAddress():
            return _archive(services, uri, address, owner)


def _environment(
    services: Services, uri: str, address: EnvironmentAddress, owner: Owner, executions: int
) -> TextResourceContents:
    environment = services.environments.get(address.environment_id, owner=owner)
    jobs = services.jobs.newest(environment.id, executions, owner=owner)
    content = EnvironmentContent(
        **summary(environment), executions=[_execution(job) for job in jobs]
    )
    return TextResourceContents(
        uri=uri, mime_type="application/json", text=content.model_dump_json(indent=2)
    )


async def _network(
    services: Services, uri: str, address: NetworkAddress, owner: Owner
) -> TextResourceContents:
    found = await services.environments.inspect(address.environment_id, owner=owner)
    content = network_content(found.network_use, str(found.environment.network), found.now)
    return TextResourceContents(
        uri=uri, mime_type="application/json", text=content.model_dump_json()
    )


def _execution(job: Job) -> ExecutionItem:
    stdout, stderr = (
        StreamItem(uri=output_uri(job.environment_id, job.number, name), bytes=job.printed(name))
        for name in job.streams
    )
    return ExecutionItem(
        job_id=job.number,
        tool=job.what.kind.value,
        summary=job.what.summary,
        status=job.state.value,
        stdout=stdout,
        stderr=stderr,
        displays=StreamItem(uri=displays_uri(job.environment_id, job.number), bytes=job.displayed)
        if job.displayed
        else None,
    )


async def _stream(services: Services, uri: str, address: StreamAddress, owner: Owner) -> Contents:
    job = await services.jobs.get(address.environment_id, address.number, owner=owner)
    recording, part = job.streams[address.stream], address.part
    status = {"status": job.state.value}
    if part.search is not None:
        found = read_page(recording, offset=part.offset, limit=None, search=part.search)
        return TextResourceContents(
            uri=uri,
            mime_type="text/plain",
            text=found.content,
            _meta=_meta(found.offset, found.next_offset, found.size, status),
        )
    printed = exact_page(recording, offset=part.offset, length=part.length)
    kind = "text/plain" if printed.encoding == "utf-8" else "application/octet-stream"
    return _contents(uri, printed, kind, status)


async def _displayed(
    services: Services, uri: str, address: DisplaysAddress | DisplayAddress, owner: Owner
) -> Contents:
    job = await services.jobs.get(address.environment_id, address.number, owner=owner)
    records = records_of(job.display, ended=not job.is_running)

    def form() -> Form:
        if isinstance(address, DisplaysAddress):
            return listed(records, address)
        return form_of(records, address)

    return _form(uri, await apart(form, len(records.data)), address.part, job)


def _form(uri: str, form: Form, part: Range, job: Job) -> Contents:
    """Return a page of one form of a display: text, or a blob."""
    length = min(max(part.length or DEFAULT_PAGE_BYTES, SMALLEST_PAGE), DEFAULT_PAGE_BYTES)
    data = form.data[part.offset : part.offset + length]
    encoding = None if form.is_text else "base64"
    shown = page(data, offset=part.offset, size=len(form.data), encoding=encoding)
    return _contents(uri, shown, form.mime_type, {"status": job.state.value})


async def _file(services: Services, uri: str, address: FileAddress, owner: Owner) -> Contents:
    part = address.part
    name, read = await services.filesystem.read(
        address.environment_id,
        address.path,
        owner=owner,
        offset=part.offset,
        length=min(max(part.length or DEFAULT_PAGE_BYTES, SMALLEST_PAGE), DEFAULT_PAGE_BYTES),
    )
    shown = page(read.data, offset=part.offset, size=read.size)
    return _contents(uri, shown, page_type(name, read.data, shown), {})


def _archive(services: Services, uri: str, address: ArchiveAddress, owner: Owner) -> Contents:
    part = address.part
    archive = services.trees.kept(address.environment_id, address.archive_id, owner=owner)
    data = archive.read(part.offset, min(part.length or BASE64_PAGE_BYTES, BASE64_PAGE_BYTES))
    end = part.offset + len(data)
    return BlobResourceContents(
        uri=uri,
        mime_type=ARCHIVE_TYPE,
        blob=base64.b64encode(data).decode("ascii"),
        _meta=_meta(
            part.offset,
            end if end < archive.size else None,
            archive.size,
            {"sha256": archive.sha256},
        ),
    )


def _contents(uri: str, part: Page, kind: str, more: dict[str, str]) -> Contents:
    meta = _meta(part.offset, part.next_offset, part.size, more)
    if part.encoding == "utf-8":
        return TextResourceContents(uri=uri, mime_type=kind, text=part.content, _meta=meta)
    return BlobResourceContents(uri=uri, mime_type=kind, blob=part.content, _meta=meta)


def _meta(offset: int, following: int | None, size: int, more: dict[str, str]) -> dict[str, Any]:
    return {PAGE_META_KEY: {"offset": offset, "next_offset": following, "size": size, **more}}
