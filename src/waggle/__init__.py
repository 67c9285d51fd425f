# SPDX-License-Identifier: Apache-2.0
"""waggle gives AI agents throw-away microVMs over MCP. Only the version is here, and only here."""

__version__ = "0.1.0"
