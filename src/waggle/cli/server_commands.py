# SPDX-License-Identifier: Apache-2.0
"""The command line of `waggle serve`, which `main` includes. No logic, as in `main`."""

from __future__ import annotations

from waggle.cli.options import Listen, Stdio
from waggle.domain.errors import InvalidArgument, SettingsInvalid


def serve(*, stdio: Stdio = False, listen: Listen = None) -> None:
    """Run the server in the foreground until Ctrl-C or SIGTERM.

    Everything but the address is set with WAGGLE_* variables.

    Example: `WAGGLE_MAX_ENVIRONMENTS=5 waggle serve --listen 127.0.0.1:9000`
    """
    from waggle.config import load, variable

    wire = None
    if stdio:
        if listen is not None:
            raise InvalidArgument("--stdio and --listen exclude each other.", hint="Leave out one.")
        from waggle.stdio import claim

        wire = claim()  # before anything can print
    try:
        settings = load(listen=listen)  # reports a bad value before the many imports of a server
    except SettingsInvalid as error:
        name = variable("listen_addr")
        if listen is None or name not in error.message:
            raise
        message = error.message.replace(name, "--listen")
        raise InvalidArgument(message, hint=error.hint) from error
    from waggle.app.serving import serve as begin

    begin(settings, wire)
