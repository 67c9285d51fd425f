# SPDX-License-Identifier: Apache-2.0
"""The base class and the fields of settings sections. Used by the modules of `waggle.config`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from waggle.config.parsers import parse_whole

Whole = Annotated[int, BeforeValidator(parse_whole)]


def setting(default: str, description: str, *, ge: int | None = None, le: int | None = None) -> Any:
    """Describe one variable. `default` is parsed like an operator's text."""
    return Field(default, description=description, validate_default=True, ge=ge, le=le)


class Section(BaseModel):
    """Base of the sections: values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
