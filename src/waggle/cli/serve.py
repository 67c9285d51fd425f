# SPDX-License-Identifier: Apache-2.0
"""`waggle serve`."""

from __future__ import annotations

import anyio

from waggle import app
from waggle.config import load
from waggle.logs import configure_logging


def serve() -> None:
    """Read the settings, set up logging, serve."""
    settings = load()
    configure_logging(settings.log_level, settings.log_format)
    anyio.run(app.serve, settings)
