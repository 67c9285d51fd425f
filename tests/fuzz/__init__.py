# SPDX-License-Identifier: Apache-2.0
"""Fuzzing beyond what the test-suite does: `python -m tests.fuzz`, as `./task fuzz`."""
