# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.conformance.server`: `waggle serve` with the suite's fixtures."""

from __future__ import annotations

import warnings
from functools import partial

import anyio
from mcp.shared.exceptions import MCPDeprecationWarning
from tests.conformance import fixtures, questions
from tests.conformance.beside import Beside

from waggle.app.process import configure_logging
from waggle.app.serving import serve_http
from waggle.config import load
from waggle.mcp.context import Services
from waggle.mcp.server import WaggleServer, build_mcp


def build(services: Services) -> WaggleServer:
    """Return the product's server with the fixtures added."""
    server = build_mcp(services)
    beside = Beside(server)
    fixtures.add_tools(server)
    fixtures.add_resources(server)
    fixtures.add_prompts(server)
    questions.add_2025(server)
    questions.add_one_question(server)
    questions.add_states(server)
    questions.add_more_questions(server)
    questions.add_others(server)
    beside.add()
    return server


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite tests deprecated parts, too
    settings = load()
    configure_logging(settings.log_level, settings.log_format)
    anyio.run(partial(serve_http, settings, build))
