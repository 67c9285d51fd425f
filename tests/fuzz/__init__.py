# SPDX-License-Identifier: Apache-2.0
"""Fuzzing beyond the test suite: `python -m tests.fuzz`, or `./task fuzz`."""
