# SPDX-License-Identifier: Apache-2.0
"""What every section of the settings is made of. Used by `waggle.config.sections` and beside it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from waggle.config.parsers import parse_whole

Whole = Annotated[int, BeforeValidator(parse_whole)]


def setting(default: str, description: str, *, ge: int | None = None, le: int | None = None) -> Any:
    """Describe one variable. `default` goes through the same parser as an operator's text."""
    return Field(default, description=description, validate_default=True, ge=ge, le=le)


class Section(BaseModel):
    """Base of the sections: values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
