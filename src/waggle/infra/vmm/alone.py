# SPDX-License-Identifier: Apache-2.0
"""The step before a tried program: from here on nothing starts another process, only threads.

`trial` runs it with the command that goes on. It is not yet of the program's user, who may be
unable to read this file.
"""

from __future__ import annotations

import os

from waggle.infra.shared import seccomp
from waggle.infra.shared._abi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(argv: list[str]) -> NoReturn:
    """Become that command, without another process. Raises OSError.

    On another machine than x86-64 there is no filter, only the bound on their number.
    """
    rules = [
        *seccomp.beginning(),
        *seccomp.every(seccomp.DENIED["processes"], seccomp.EPERM),
        *seccomp.only_threads(),
        *seccomp.ending(seccomp.ALLOW),
    ]
    seccomp.install(ffi.dlopen(None), rules)
    os.execvp(argv[0], argv)  # noqa: S606  (no shell)
