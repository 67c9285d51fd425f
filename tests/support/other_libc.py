# SPDX-License-Identifier: Apache-2.0
"""The command line with a C library that is not known to be glibc, as under musl."""

from __future__ import annotations

from waggle.__main__ import main

if __name__ == "__main__":
    main(lambda: "")
