# SPDX-License-Identifier: Apache-2.0
"""Show what became of a tree: an archive that was unpacked, or one that was packed. Pure."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence

from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ResourceLink

from waggle.domain.files.tree import Skipped, Unpacked, shown_name
from waggle.domain.toolset import Offer
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.offered import offers
from waggle.mcp.resources.read import ARCHIVE_TYPE
from waggle.mcp.results.environments import readable, success
from waggle.mcp.results.files import DownloadedFiles, LeftOut, UploadedFiles
from waggle.mcp.uris import ArchiveAddress, archive_uri
from waggle.service.files.trees import Archive

_MAX_TOLD = 20


def uploaded(path: str, done: Unpacked, offer: Offer) -> CallToolResult:
    """What was unpacked below a directory; entries that failed make it an error that tells all."""
    result = UploadedFiles(
        path=readable(path),
        files=done.files,
        directories=done.directories,
        links=done.links,
        bytes_written=done.size,
        failed=done.failed,
        failures=_left_out(done.failures),
    )
    text = (
        f"Wrote {result.files} files, {result.directories} directories and {result.links} "
        f"links, {result.bytes_written} bytes, below {result.path}."
    )
    if not done.failed:
        return success(result, text)
    first = "; ".join(f"{item.path}: {item.reason}" for item in result.failures)
    more = f" and {done.failed - len(result.failures)} more" * (done.failed > len(result.failures))
    failure = Failure(
        "partial_upload",
        f"{text} {done.failed} entries failed: {first}{more}.",
        "What was written stays. Mend the cause, then send the rest or all of it again.",
    )
    return failure_result(failure, offer, structured=result)


def _left_out(skipped: Sequence[Skipped]) -> list[LeftOut]:
    return [
        LeftOut(path=readable(shown_name(each.name)), reason=each.reason)
        for each in skipped[:_MAX_TOLD]
    ]


def downloaded(archive: Archive, offset: int, data: bytes | None, offer: Offer) -> CallToolResult:
    """Where an archive can be read; with `data` a page of it from `offset` on, too."""
    linked = offers(offer, ArchiveAddress)
    uri = archive_uri(archive.environment_id, archive.id)
    result = DownloadedFiles(
        path=readable(archive.path),
        archive_id=archive.id,
        sha256=archive.sha256,
        size=archive.size,
        entries=archive.entries,
        left_out=_left_out(archive.left_out.first),
        left_out_count=archive.left_out.count,
        uri=uri if linked else "",
    )
    text = (
        f"{result.path} as tar.gz: {result.entries} entries, {result.size} bytes, sha256 "
        f"{result.sha256}, archive_id {archive.id}."
    )
    if archive.left_out.count:
        text += f" Left out: {archive.left_out.count}; " + "; ".join(
            f"{item.path}: {item.reason}" for item in result.left_out
        )
    if data is None:
        link = ResourceLink(
            type="resource_link",
            name=f"{posixpath.basename(result.path) or 'root'}.tar.gz",
            uri=uri,
            mime_type=ARCHIVE_TYPE,
            size=archive.size,
        )
        return success(result, text, also=(link,) if linked else ())
    end = offset + len(data)
    result.content, result.offset = base64.b64encode(data).decode("ascii"), offset
    result.next_offset = end if end < archive.size else None
    if result.next_offset is not None or offset:
        last = "this is the end" if result.next_offset is None else f"go on at {end}"
        text += f"\n[bytes {offset} to {end}; {last}]"
    page_uri = f"{uri}?offset={offset}&length={max(len(data), 1)}"
    blob = BlobResourceContents(uri=page_uri, mime_type=ARCHIVE_TYPE, blob=result.content)
    return success(result, text, also=(EmbeddedResource(type="resource", resource=blob),))
