# SPDX-License-Identifier: Apache-2.0
"""`waggle mcp-config`: configuration files of MCP clients, their entries, and merging."""
