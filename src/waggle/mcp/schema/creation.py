# SPDX-License-Identifier: Apache-2.0
"""Parameters that choose a new environment, shared by the tools that make one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.domain.errors import InvalidArgument
from waggle.domain.network import NetworkPolicy
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.snapshot import Snapshot

RuntimeArgument = Annotated[
    str,
    Field(description="What runs the code.", json_schema_extra={"enum": [*RuntimeName]}),
]
OptionalRuntimeArgument = Annotated[
    str | None,
    Field(
        description="What runs code in it; a snapshot has one.",
        json_schema_extra={"enum": [*RuntimeName]},
    ),
]
SnapshotArgument = Annotated[
    str | None, Field(description="Id of a snapshot to go on from, instead of runtime and image.")
]
ImageArgument = Annotated[str | None, Field(description="OCI image instead of the runtime's own.")]
NetworkArgument = Annotated[
    str | None,
    Field(
        description="public: the internet, through a proxy.",
        json_schema_extra={"enum": [*NetworkPolicy]},
    ),
]
NameArgument = Annotated[str | None, Field(description="What you call it.")]
MinutesArgument = Annotated[
    int | None, Field(description="Minutes without a call until it is removed.")
]
CpusArgument = Annotated[int | None, Field()]
MemoryArgument = Annotated[int | None, Field(description="MiB.")]
DiskArgument = Annotated[int | None, Field(description="MiB.")]


def require_fitting(
    snapshot: Snapshot, runtime: str | None, image: str | None, *sizes: int | None
) -> None:
    """Raise InvalidArgument or InvalidRuntime if these ask for what the snapshot is not."""
    if any(sizes):
        raise InvalidArgument(
            "A snapshot has its own size: cpus, memory_mb and disk_mb are those it was taken with.",
            hint="Leave them out, or create an environment of that size without the snapshot.",
        )
    if image:
        raise InvalidArgument(
            "A snapshot has its own image: image and snapshot exclude each other.",
            hint="Leave out image to go on from the snapshot, or snapshot to boot the image.",
        )
    if runtime and RuntimeName.parse(runtime) is not snapshot.runtime:
        raise InvalidArgument(
            f"Snapshot {snapshot.id} has the runtime {snapshot.runtime}, not {runtime}.",
            hint="Leave out runtime.",
        )


def parse_network(text: str | None) -> NetworkPolicy | None:
    """The policy that was asked for, if any. Raises InvalidArgument."""
    if not text:
        return None
    try:
        return NetworkPolicy(text)
    except ValueError:
        raise InvalidArgument(
            f"There is no network policy {text[:40]!r}.",
            hint=f"Use one of: {', '.join(NetworkPolicy)}.",
        ) from None
