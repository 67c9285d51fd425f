# SPDX-License-Identifier: Apache-2.0
"""Parameters that several tools share, with the words that their schemas publish."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.domain.execution import HOME
from waggle.domain.job import MAX_WAIT_SECONDS

EnvironmentId = Annotated[
    str, Field(description="UUID of the environment; create_environment returned it.")
]
JobId = Annotated[
    int, Field(ge=1, description="Number of the job in its environment; list_jobs has it.")
]
Seconds = Annotated[
    Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0})] | None,
    Field(description="Kill the program and all it started after so many seconds."),
]
Wait = Annotated[
    Annotated[float, Field(json_schema_extra={"minimum": 0, "maximum": MAX_WAIT_SECONDS})] | None,
    Field(
        description="Answer after so many seconds at the latest; a program that still runs then "
        "goes on as a job. Default: the operator's choice, usually 30."
    ),
]
Background = Annotated[
    bool, Field(description="Start it as a job and answer at once, as with wait_seconds 0.")
]
Cwd = Annotated[
    str | None,
    Field(
        description=f"Directory to run in; relative to {HOME}. Default: the working_directory of "
        f"create_environment, {HOME} unless the image names another."
    ),
]
Env = Annotated[
    dict[str, str] | None, Field(description="Environment variables to add for this call.")
]
Stdin = Annotated[str, Field(description="What the program reads on its standard input.")]
