# SPDX-License-Identifier: Apache-2.0
"""Measure waggle against the parts that it is made of: `./task bench`. See __main__.py."""
