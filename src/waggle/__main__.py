# SPDX-License-Identifier: Apache-2.0
"""`waggle` and `python -m waggle`."""

import sys

from waggle.memory import start_anew_with_malloc


def main() -> None:
    """Run the command line. Never returns."""
    if sys.argv[1:2] == ["serve"]:
        start_anew_with_malloc()
    from waggle.cli.main import main as run  # noqa: PLC0415 (takes long; not before the new start)

    run()


if __name__ == "__main__":
    main()
