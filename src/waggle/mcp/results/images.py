# SPDX-License-Identifier: Apache-2.0
"""The result of a program with its pictures: those that it displayed, and images that it wrote.

The images of a program are the image files in its working directory that are new or changed since
it started; the guest needs no support for this. It costs a listing before and one after the run, so
it is done only for programs that name an image file or when the client requests it. Called by
`resources.read` and the tools.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
from mcp_types import ContentBlock, ImageContent

from waggle.domain.access import Owner
from waggle.domain.errors import WaggleError
from waggle.domain.files import FileEntry
from waggle.domain.programs.job import JobState, JobView
from waggle.mcp.errors import Failure, clean
from waggle.mcp.results import COPY_BUDGET, Hint, Reply, failed, success, wire_size
from waggle.mcp.results.jobs import CommandOutput, ShownImage
from waggle.mcp.results.pages import Page, mime_type
from waggle.mcp.results.pictures import MAX_IMAGE_BYTES, file_link, image_content, image_type
from waggle.mcp.results.programs import command_text, job_shown
from waggle.mcp.uris import file_uri
from waggle.service.files import FilesystemService
from waggle.service.programs import Job
from waggle.service.programs.execution import ExecutionLimits


def page_type(path: str, data: bytes, part: Page) -> str:
    """Return the media type of a page that begins with `data`: by content for images, else name."""
    whole = part.offset == 0 and len(data) == part.size
    found = image_type(data) if whole else None
    named = mime_type(path, part.encoding)
    if found is None and whole and named.startswith("image/"):
        return "text/plain" if part.encoding == "utf-8" else "application/octet-stream"
    return found or named


MAX_IMAGES = 4
CLOCKS_DIFFER = timedelta(seconds=5)
"""How far the clocks of host and guest may be apart."""
LOOK_SECONDS = 5.0
"""The time limit for finding images; after it, none are shown."""
_SUFFIX = r"\.(?:png|jpe?g|gif|webp|svg)\b"
_NAMED = re.compile(rf"{_SUFFIX}|\bsavefig\b", re.IGNORECASE)
_NAME = re.compile(rf"[^/]*{_SUFFIX}\Z", re.IGNORECASE | re.DOTALL)

Seen = Mapping[str, tuple[int, datetime]]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the guest. `data` was checked to be an image of the type `kind`."""

    path: str
    kind: str
    data: bytes


@dataclass(slots=True, eq=False)
class Album:
    """The directory to search for a program's images, and its images before the program ran.

    `found` are those of the program, once it has ended: what comes later is of others.
    """

    files: FilesystemService
    environment_id: str
    directory: str
    owner: Owner
    before: Seen
    found: Seen | None = None

    async def new(self, view: JobView, ended_at: datetime | None) -> list[Picture]:
        """Return at most MAX_IMAGES images, by name, of a program that exited.

        Returns none if the guest cannot be reached: the program's result is still valid.
        """
        if view.state is not JobState.EXITED:
            return []
        found: list[Picture] = []
        with anyio.move_on_after(LOOK_SECONDS), contextlib.suppress(WaggleError):
            listing = await self.files.list(self.environment_id, self.directory, owner=self.owner)
            entries = self._its(_changed(listing.entries, self.before), ended_at)
            for entry in entries[: 2 * MAX_IMAGES]:
                picture = await self._read(f"{listing.path.rstrip('/')}/{entry.name}")
                found += [picture] if picture else []
        return found[:MAX_IMAGES]

    def _its(self, entries: Sequence[FileEntry], ended_at: datetime | None) -> list[FileEntry]:
        """Return those that the program wrote, and remember them."""
        if self.found is None:
            latest = ended_at and ended_at + CLOCKS_DIFFER
            written = [entry for entry in entries if latest is None or entry.modified <= latest]
            self.found = {entry.name: (entry.size, entry.modified) for entry in written}
        return [
            entry for entry in entries if self.found.get(entry.name) == (entry.size, entry.modified)
        ]

    async def _read(self, path: str) -> Picture | None:
        try:
            path, read = await self.files.read(
                self.environment_id, path, owner=self.owner, length=MAX_IMAGE_BYTES
            )
        except WaggleError:
            return None
        kind = image_type(read.data) if len(read.data) == read.size else None
        return Picture(path, kind, read.data) if kind else None


async def album_of(
    files: FilesystemService, environment_id: str, directory: str, *, owner: Owner
) -> Album | None:
    """Remember the images of a directory. None if it cannot be listed within LOOK_SECONDS."""
    with anyio.move_on_after(LOOK_SECONDS), contextlib.suppress(WaggleError):
        entries = (await files.list(environment_id, directory, owner=owner)).entries
        seen = {entry.name: (entry.size, entry.modified) for entry in entries if _is_image(entry)}
        return Album(files, environment_id, directory, owner, seen)
    return None


async def pictures_for(
    albums: Mapping[Job, Album | None], job: Job, view: JobView
) -> Sequence[Picture] | None:
    """Return the images that a job wrote, or None if its caller wants no pictures."""
    album = albums.get(job)
    if album is None:
        return None if job in albums else ()
    return await album.new(view, job.ended_at)


def names_image(program: str | Sequence[str]) -> bool:
    """Whether a program's text mentions an image file."""
    return _NAMED.search(program if isinstance(program, str) else " ".join(program)) is not None


def _changed(entries: Sequence[FileEntry], before: Seen) -> list[FileEntry]:
    return [
        entry
        for entry in entries
        if _is_image(entry) and before.get(entry.name) != (entry.size, entry.modified)
    ]


def _is_image(entry: FileEntry) -> bool:
    """Whether an entry may be an image by name and size; its content is checked later."""
    regular = not entry.is_dir and not entry.is_link
    return regular and 0 < entry.size <= MAX_IMAGE_BYTES and _NAME.match(entry.name) is not None


def _with_images(
    environment_id: str,
    output: CommandOutput,
    pictures: Sequence[Picture],
    displayed: Sequence[int],
) -> tuple[CommandOutput, list[ContentBlock], list[Hint]]:
    """Return the output with its images listed, those that fit, and hints on the others.

    A link to its file follows an image. `displayed` are the sizes of the pictures that it
    displayed. If those are as many as it wrote, they are probably the same ones: the files are only
    listed.
    """
    room = 2 * (COPY_BUDGET - wire_size(output.stdout) - wire_size(output.stderr)) - sum(displayed)
    shown: list[ContentBlock] = []
    items: list[ShownImage] = []
    hints: list[Hint] = []
    for picture in pictures:
        block = image_content(picture.data, picture.kind)
        name, size = " ".join(clean(picture.path, 300).split()), len(picture.data)
        items.append(ShownImage(path=name, mime_type=picture.kind, size=size))
        if len(displayed) >= len(pictures):
            continue
        if len(block.data) > room:
            hints.append(Hint("read_file shows it.", f"There was no room to show {name}"))
            continue
        room -= len(block.data)
        shown.append(block)
        uri = file_uri(environment_id, picture.path)
        shown.append(file_link(uri, picture.path, picture.kind, size))
    return output.model_copy(update={"images": items}), shown, hints


def result_of(
    view: JobView,
    limits: ExecutionLimits,
    *,
    shown: int,
    pictures: Sequence[Picture] | None = None,
) -> Reply:
    """Return a job as a result: ended, still running, or an error with the output so far.

    `shown` is the most characters of output. `pictures` are shown with it, and those that it
    displayed; with None neither are.
    """
    failing = view.state in (JobState.TIMED_OUT, JobState.LOST)
    made = job_shown(view, shown, pictures=pictures is not None and not failing)
    output, hints = made.output, made.hints
    if view.state is JobState.TIMED_OUT:
        failure = timeout_failure(
            view,
            limits.max_timeout,
            " or none: a program that runs longer than wait_seconds becomes a job; read_job waits "
            "for it.",
        )
        return failed(failure, output, command_text, hints, made.meta)
    if view.state is JobState.LOST:
        why, step = view.error, "Run it again."
        if view.diagnosis is not None:
            why, step = view.diagnosis.cause, view.diagnosis.next_step
        failure = Failure("guest_lost", f"Job {view.number} was lost: {clean(why)}", clean(step))
        return failed(failure, output, command_text, hints, made.meta)
    also = made.pictures
    if pictures:
        sizes = [len(block.data) for block in also if isinstance(block, ImageContent)]
        output, images, more = _with_images(view.environment_id, output, pictures, sizes)
        also, hints = [*also, *images], [*hints, *more]
    return success(output, command_text, also=also, hints=hints, meta=made.meta)


def timeout_failure(view: JobView, longest: float, otherwise: str) -> Failure:
    """Return the failure of a program that was killed at its timeout."""
    return Failure(
        "timeout",
        f"The program ran into its timeout and {_how_ended(view)} after {view.duration:.1f} s.",
        f"Give a larger timeout_seconds (at most {longest:g}){otherwise}",
    )


def _how_ended(view: JobView) -> str:
    is_kept = view.diagnosis is not None and view.diagnosis.code == "interrupted"
    return "was interrupted" if is_kept else "was killed"
