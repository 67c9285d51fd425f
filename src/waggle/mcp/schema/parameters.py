# SPDX-License-Identifier: Apache-2.0
"""Parameters that several tools share, with their published descriptions, and their parsers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.domain.errors import InvalidArgument
from waggle.domain.network import Network, parse_network
from waggle.domain.programs import GuestUser
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot
from waggle.mcp.schema import STRINGS, listed_as, unlisted


def _written_out(value: object) -> object:
    """Return a file's text; some clients parse JSON text, which is serialized again here."""
    if not isinstance(value, dict | list):
        return value
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


Content = Annotated[str, BeforeValidator(_written_out)]
EnvironmentId = Annotated[str, Field(description="Its id or name.")]
OptionalEnvironmentId = Annotated[
    str | None, Field(description="Id or name. Default: a new one, whose id is returned.")
]
NewRuntime = Annotated[
    str | None,
    Field(description="Of a new environment.", json_schema_extra={"enum": [*RuntimeName]}),
]
JobId = Annotated[int, Field(description="Number of the job.")]
Code = Annotated[str, Field(description="The program, or shell lines.")]
Seconds = Annotated[float | None, Field(description="Kill it after so long.")]
Wait = Annotated[
    float | None,
    Field(description="Answer after so long at the latest; it continues as a job."),
]
Background = Annotated[bool, Field(description="Answer at once; it runs as a job.")]
Cwd = Annotated[str | None, Field(description="Working directory.")]
Env = Annotated[
    str | list[str] | dict[str, Any] | None,
    Field(description="Variables as NAME=value.", json_schema_extra=STRINGS),
]
Stdin = Annotated[str, Field()]
_STDIN_OPEN = "Keep its standard input open for write_job."
StdinOpen = Annotated[bool, Field(description=_STDIN_OPEN)]
UnlistedStdinOpen = Annotated[bool, Field(description=_STDIN_OPEN, json_schema_extra=unlisted())]
Tty = Annotated[
    bool,
    Field(
        description="It has a terminal for input and output; stderr is part of stdout.",
        json_schema_extra=unlisted(),
    ),
]
User = Annotated[
    str | None, Field(json_schema_extra={"enum": [*GuestUser]}, description="Default: sandbox.")
]
MaxOutput = Annotated[int | None, Field(description="Characters of output to return.")]
Images = Annotated[
    bool | None,
    Field(
        description="Show the image files that it writes into its working directory. Default: if "
        "its text names one. false: no pictures at all, also of what it displays.",
        json_schema_extra=unlisted(),
    ),
]
Packages = Annotated[
    str | list[str],
    Field(
        description="Names, with versions as the installer takes them.", json_schema_extra=STRINGS
    ),
]
OptionalPackages = Annotated[
    str | list[str] | None, Field(description="To install first.", json_schema_extra=STRINGS)
]
_FILE = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
}
Files = Annotated[
    list[dict[str, Content]] | dict[str, Content] | None,
    Field(
        description="Text files to write first.",
        json_schema_extra=listed_as(type="array", items=_FILE),
    ),
]


def parse_files(given: Sequence[Mapping[str, str]] | Mapping[str, str] | None) -> dict[str, str]:
    """Return contents by path, from a list of path and content or an object.

    Raises InvalidArgument.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {**given}
    if any(set(file) != {"path", "content"} for file in given):
        raise InvalidArgument(
            "Every item of files has a path and a content.",
            hint='Write files as [{"path": "a.txt", "content": "..."}].',
        )
    return {file["path"]: file["content"] for file in given}


def parse_user(text: str | None) -> GuestUser:
    """Return the guest user to run a program as. Raises InvalidArgument."""
    try:
        return GuestUser(text or GuestUser.SANDBOX)
    except ValueError:
        raise InvalidArgument(
            f"There is no user {(text or '')[:40]!r} to run as.",
            hint=f"Use one of: {', '.join(GuestUser)}.",
        ) from None


Hints = dict[str, Any]
LARGE_RESULTS: Hints = {"anthropic/maxResultSizeChars": 500_000}
"""The `_meta` of a tool whose results may be larger than clients pass on by default."""


def searchable(words: str) -> Hints:
    """Return the `_meta` of a tool that clients load when a model searches for its purpose."""
    return {"anthropic/searchHint": words}


RuntimeArgument = Annotated[
    str,
    Field(description="To run the code with.", json_schema_extra={"enum": [*RuntimeName]}),
]
OptionalRuntimeArgument = Annotated[
    str | None,
    Field(
        description="To run code with; a snapshot has one.",
        json_schema_extra={"enum": [*RuntimeName]},
    ),
]
SnapshotArgument = Annotated[
    str | None, Field(description="Id to start from, instead of runtime and image.")
]
SnapshotsArgument = Annotated[bool, Field(description="For forks, snapshots and pauses to disk.")]
ImageArgument = Annotated[str | None, Field(description="OCI image instead of the runtime's own.")]
NetworkArgument = Annotated[
    str | list[str] | None,
    Field(
        description="public, none, ask, or rules: *.example.org:443, @packages.",
        json_schema_extra=listed_as(type="string"),
    ),
]
SecretsArgument = Annotated[
    str | list[str] | None,
    Field(
        description="The operator's, by name.",
        json_schema_extra=STRINGS,
    ),
]
NameArgument = str | None
MinutesArgument = Annotated[
    int | None, Field(description="Minutes without a call until it is removed.")
]
GraceArgument = Annotated[
    int,
    Field(description="Programs get a SIGTERM and so long to end.", json_schema_extra=unlisted()),
]
MoreMinutesArgument = Annotated[
    int, Field(description=f"{MIN_TIMEOUT_MINUTES} to {MAX_TIMEOUT_MINUTES}, from now on.")
]
CpusArgument = Annotated[int | None, Field()]
MemoryArgument = int | None
DiskArgument = int | None


def require_fitting(
    snapshot: Snapshot, runtime: str | None, image: str | None, *sizes: int | None
) -> None:
    """Raise InvalidArgument or InvalidRuntime if an argument contradicts the snapshot."""
    if any(sizes):
        raise InvalidArgument(
            "A snapshot has its own size: cpus, memory_mb and disk_mb are those it was taken with.",
            hint="Leave them out, or create an environment of that size without the snapshot.",
        )
    if image:
        raise InvalidArgument(
            "A snapshot has its own image: image and snapshot exclude each other.",
            hint="Leave out image to start from the snapshot, or snapshot to boot the image.",
        )
    if runtime and RuntimeName.parse(runtime) is not snapshot.runtime:
        raise InvalidArgument(
            f"Snapshot {snapshot.id} has the runtime {snapshot.runtime}, not {runtime}.",
            hint="Leave out runtime.",
        )


def parse_secrets(given: str | Sequence[str] | None, snapshot: Snapshot | None) -> tuple[str, ...]:
    """Return the names of the requested secrets. Raises InvalidArgument for a snapshot."""
    names = given.replace(",", " ").split() if isinstance(given, str) else given or ()
    if names and snapshot is not None:
        raise InvalidArgument(
            "A snapshot has its own secrets: those of the environment that it was taken of.",
            hint="Leave out secrets, or create an environment with them without the snapshot.",
        )
    return tuple(names)


def parse_reach(given: str | Sequence[str] | None) -> Network | None:
    """Return the requested network, if any. Raises InvalidArgument."""
    return parse_network(given) if given else None
