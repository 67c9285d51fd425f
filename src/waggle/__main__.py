# SPDX-License-Identifier: Apache-2.0
"""`waggle` and `python -m waggle`."""

from waggle.cli.main import main

if __name__ == "__main__":
    main()
