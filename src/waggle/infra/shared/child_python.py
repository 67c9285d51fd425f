# SPDX-License-Identifier: Apache-2.0
"""A bare Python as a child: how it is called, and how it is given its configuration.

Used by the hypervisors for processes that confine themselves. Each import of the child costs every
boot, so it has no site-packages' hooks. Knows nothing of what the child does.
"""

from __future__ import annotations

import contextlib
import os
import sys

from waggle.domain.errors import BootFailed


def python_argv(module: str) -> list[str]:
    """A Python that runs `main` of this module, imported from where this one imports."""
    run = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import main; sys.exit(main())"
    return [sys.executable, "-I", "-S", "-c", run, *map(os.path.abspath, sys.path)]


def filled_pipe(data: bytes, stack: contextlib.ExitStack) -> int:
    """The end from which `data` can be read, then nothing more. It has to fit a pipe's buffer.

    The stack closes it. Raises BootFailed when the data is too long.
    """
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    os.set_blocking(writer, False)
    try:
        if os.write(writer, data) != len(data):
            raise BootFailed("The configuration of the machine's process is too long.")
    finally:
        os.close(writer)
    return reader
