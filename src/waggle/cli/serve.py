# SPDX-License-Identifier: Apache-2.0
"""`waggle serve` and `waggle serve --stdio`."""

from __future__ import annotations

from waggle.app import http, signals, stdio
from waggle.app.logs import configure_logging
from waggle.config import Settings, name_user
from waggle.infra.host.process import raise_limit
from waggle.stdio.lines import Wire


def serve(settings: Settings) -> None:
    """Set up logging and serve. Raises WaggleError, also inside groups."""
    configure_logging(settings.log_level, settings.log_format)
    name_user()
    raise_limit()
    signals.run(http.serve, settings)


def serve_stdio(settings: Settings, wire: Wire) -> None:
    """Set up logging and serve one client. Raises WaggleError, also inside groups."""
    configure_logging(settings.log_level, settings.log_format, waiting=False)
    name_user()
    raise_limit()
    signals.run(stdio.serve_stdio, settings, wire)
