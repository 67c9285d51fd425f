# SPDX-License-Identifier: Apache-2.0
"""The entry point of `waggle` and `python -m waggle`."""

import sys
from collections.abc import Callable

from waggle.allocator import c_library, set_for_start_and_end, start_anew_with_malloc


def main(libc: Callable[[], str] = c_library) -> None:
    """Run the command line. Never returns. `libc` returns the name of the C library."""
    if sys.argv[1:2] == ["serve"]:
        start_anew_with_malloc(libc)
    with set_for_start_and_end():
        from waggle.cli.main import main as run  # noqa: PLC0415 (slow; not before the restart)

        run()


if __name__ == "__main__":
    main()
