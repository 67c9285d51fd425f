# SPDX-License-Identifier: Apache-2.0
"""The tools that move trees as archives and expose ports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from waggle.domain.access import Owner
from waggle.domain.errors import Unsupported
from waggle.domain.exposed_url import Place
from waggle.domain.files import MAX_FILE_BYTES
from waggle.domain.link import DEFAULT_MINUTES, MAX_MINUTES, parse_minutes
from waggle.domain.observer import OK, Call
from waggle.domain.programs import HOME
from waggle.mcp.context import Ctx, Services, authority_of, current_owner, with_heartbeat
from waggle.mcp.results import Reply, success
from waggle.mcp.results.files import DownloadedFiles, UploadedFiles, downloaded, uploaded
from waggle.mcp.results.pages import BASE64_PAGE_BYTES, SMALLEST_PAGE, decode_base64
from waggle.mcp.results.state import ClosedPort, OpenedPort, opened_port
from waggle.mcp.schema import unlisted
from waggle.mcp.schema.parameters import LARGE_RESULTS, EnvironmentId, searchable
from waggle.mcp.schema.tool import READS, SETTLES, OfferedTool, make_tool
from waggle.service.environments.ports import WAIT_SECONDS

_Archive = Annotated[str, Field(description="tar (.gz, .bz2, .xz, .zst) or zip, as base64.")]
_Target = Annotated[str | None, Field(description=f"Directory. Default {HOME}.")]
_Source = Annotated[str, Field(description="Directory or file.")]
_Exclude = Annotated[list[str] | None, Field(description="Globs to leave out.")]
_ArchiveId = Annotated[str | None, Field(description="Of the last result, for its next page.")]
_ArchiveOffset = Annotated[int, Field(ge=0, description="next_offset of the last result.")]
_ArchiveLimit = Annotated[
    int | None,
    Field(ge=SMALLEST_PAGE, le=MAX_FILE_BYTES, description="Return so many bytes as base64."),
]


class TreeTools:
    """upload_files and download_files."""

    def __init__(self, services: Services) -> None:
        self._trees = services.trees

    async def upload_files(
        self, ctx: Ctx, *, environment_id: EnvironmentId, archive: _Archive, path: _Target = None
    ) -> Annotated[Reply, UploadedFiles]:
        """Unpack an archive; entries that fail make it an error, with the counts of the others."""
        data = decode_base64(archive)
        target, done = await self._trees.upload(
            environment_id, path or None, data, owner=current_owner(ctx)
        )
        return uploaded(target, done)

    async def download_files(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        path: _Source,
        exclude: _Exclude = None,
        archive_id: _ArchiveId = None,
        offset: _ArchiveOffset = 0,
        limit: _ArchiveLimit = None,
    ) -> Annotated[Reply, DownloadedFiles]:
        """Pack a tree, or return a further page of an archive."""
        owner = current_owner(ctx)
        if archive_id:
            archive = self._trees.kept(environment_id, archive_id, owner=owner)
        else:
            archive = await self._trees.download(
                environment_id, path, owner=owner, exclude=exclude or ()
            )
        is_page = limit is not None or archive_id is not None
        data = archive.read(offset, limit or BASE64_PAGE_BYTES) if is_page else None
        return downloaded(archive, offset, data)


def tree_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = TreeTools(services)
    return [
        make_tool(
            tools.upload_files,
            title="Upload files",
            description="Unpack an archive below a directory: many files in one call.",
            annotations=SETTLES,
            meta=searchable("upload a project or directory into a sandbox"),
        ),
        make_tool(
            tools.download_files,
            title="Download files",
            description="Pack a directory as tar.gz, for programs that keep it: a link to a "
            "resource, or with limit, pages of base64.",
            annotations=READS,
            meta={**searchable("download a directory from a sandbox"), **LARGE_RESULTS},
        ),
    ]


_Port = Annotated[int, Field(description="TCP port in the environment.")]
_Wait = Annotated[
    float | None, Field(description=f"For something to listen. Default {WAIT_SECONDS:g}.")
]
_LinkMinutes = Annotated[
    float | None,
    Field(
        description=f"How long public_url is valid, at most {MAX_MINUTES}; also makes one where "
        "there would be none.",
        json_schema_extra=unlisted(),
    ),
]
_SILENT = "Nothing listens there yet: start the server as a background job and use the URL then."


class PortTools:
    """expose_port and unexpose_port."""

    def __init__(self, services: Services) -> None:
        self._ports = services.ports
        self._environments = services.environments
        self._heartbeat = services.heartbeat
        self._urls = services.urls
        self._observer = services.observer

    async def expose_port(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        port: _Port,
        wait_seconds: _Wait = None,
        link_minutes: _LinkMinutes = None,
    ) -> Annotated[Reply, OpenedPort]:
        """Open a port and wait a while until something listens."""
        owner = current_owner(ctx)
        if link_minutes is not None:
            parse_minutes(link_minutes)
            if authority_of(ctx) is None:
                raise Unsupported("There are no links over stdio.", hint="Use the url.")
        environment_id = self._environments.get(environment_id, owner=owner).id
        work = self._ports.expose(environment_id, port, owner=owner, wait_seconds=wait_seconds)
        exposed, listening = await with_heartbeat(
            ctx, lambda: "waiting for the port", self._heartbeat, work
        )
        note = "" if listening else _SILENT
        public, until = self._public(ctx, Place(environment_id, port), owner, link_minutes)
        return success(
            *opened_port(exposed, listening=listening, note=note, public=public, until=until)
        )

    def _public(
        self, ctx: Ctx, place: Place, owner: Owner, minutes: float | None
    ) -> tuple[str, datetime | None]:
        """Return a URL for others, and when it ends; empty if it would be of no more use."""
        authority = authority_of(ctx)
        if authority is None or not (minutes or self._urls.reaches_beyond(authority)):
            return "", None
        if minutes is None and not self._urls.is_private:
            return self._urls.url(place, authority), None
        link = self._ports.link(
            *(place.environment_id, place.port), owner=owner, minutes=minutes or DEFAULT_MINUTES
        )
        made = Call(owner, "", OK, 0.0, place.environment_id, method="port_link")
        self._observer.call_ended(made)
        until = datetime.fromtimestamp(link.expires, UTC)
        return self._urls.url(place, authority, link.token), until

    async def unexpose_port(
        self, ctx: Ctx, *, environment_id: EnvironmentId, port: _Port
    ) -> Annotated[Reply, ClosedPort]:
        """Close a port."""
        owner = current_owner(ctx)
        environment_id = self._environments.get(environment_id, owner=owner).id
        was = await self._ports.unexpose(environment_id, port, owner=owner)
        result = ClosedPort(port=port, was_exposed=was)
        return success(result, f"Port {port} is {'closed' if was else 'not exposed'}.")


def port_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = PortTools(services)
    return [
        make_tool(
            tools.expose_port,
            title="Expose a port",
            description="Get URLs for a web or other TCP server that runs in an environment: one "
            "on the server's machine, and if others reach that, one to share. Visits count as use.",
            annotations=SETTLES,
            meta=searchable("expose a port, preview a web server of a sandbox"),
        ),
        make_tool(
            tools.unexpose_port,
            title="Close an exposed port",
            description="Close a port that expose_port opened. The program still runs.",
            annotations=SETTLES,
            meta=searchable("close an exposed port"),
        ),
    ]
