# SPDX-License-Identifier: Apache-2.0
"""Configuration files of MCP clients: where they are, what goes in, and how it is merged."""
