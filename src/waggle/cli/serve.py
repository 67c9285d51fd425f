# SPDX-License-Identifier: Apache-2.0
"""`waggle serve`."""

from __future__ import annotations

import anyio

from waggle import app
from waggle.config import Settings, name_user
from waggle.logs import configure_logging


def serve(settings: Settings) -> None:
    """Set up logging and serve. Raises WaggleError, also inside groups."""
    configure_logging(settings.log_level, settings.log_format)
    name_user()
    anyio.run(app.serve, settings)
