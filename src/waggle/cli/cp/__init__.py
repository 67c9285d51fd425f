# SPDX-License-Identifier: Apache-2.0
"""`waggle cp`: files and trees into and out of environments, through the running server's tools."""
