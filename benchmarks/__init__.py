# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of waggle against the parts that it uses: `./task bench`. See __main__.py."""
