# SPDX-License-Identifier: Apache-2.0
"""A child process that stops at a chosen point of its work, to be killed there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence

_STOP = """
import sys

def stop():
    print("here", flush=True)
    sys.stdin.read()

if sys.argv[1] == "stored":
    from waggle.infra.oci.store.layout import Layout

    put = Layout.put_file
    def put_and_stop(*args):
        put(*args)
        stop()
    Layout.put_file = put_and_stop
"""


def child(code: str, where: str, *words: str) -> list[str]:
    """Return the command of a child that runs `code`, which may call `stop()`.

    Its `sys.argv[1]` is `where`; `stored` stops it after the first blob is in its place.
    """
    return [sys.executable, "-c", _STOP + code, where, *words]


@contextlib.contextmanager
def stopped(argv: Sequence[str]) -> Generator[None]:
    """Run the block while the child is stopped, then kill the child."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGKILL)
