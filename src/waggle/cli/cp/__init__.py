# SPDX-License-Identifier: Apache-2.0
"""`waggle cp`: copy files and trees into and out of environments, by the running server's tools."""
