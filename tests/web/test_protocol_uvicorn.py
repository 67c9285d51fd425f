# SPDX-License-Identifier: Apache-2.0
"""What `waggle.web.protocol` needs of uvicorn and httptools that no documentation promises."""

from __future__ import annotations

import asyncio
import inspect
import re
from importlib.metadata import version

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from waggle.web.connections import ConnectionLimits, Connections
from waggle.web.protocol import GuardedProtocol, HttpServer, Joined

UVICORN = f"in uvicorn {version('uvicorn')}, which is installed; waggle/web/protocol.py needs it"
HTTPTOOLS = f"in httptools {version('httptools')}, which is installed"
OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_message_begin": ["self"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
}
CALLED = {"send_400_response": ["self", "msg"]}
READ = (
    "app",
    "client",
    "config",
    "cycle",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "timeout_keep_alive_task",
    "transport",
)


@pytest.mark.parametrize("name, parameters", [*OVERRIDDEN.items(), *CALLED.items()])
def test_the_protocol_has_the_methods(name: str, parameters: list[str]) -> None:
    method = getattr(HttpToolsProtocol, name, None)
    assert method is not None, f"HttpToolsProtocol.{name} is missing {UVICORN}"
    found = [*inspect.signature(method).parameters]
    assert found == parameters, f"HttpToolsProtocol.{name} takes {found} {UVICORN}"


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    pass


def server() -> HttpServer:
    connections = Connections[GuardedProtocol](ConnectionLimits(), lambda: 0.0)
    return HttpServer(_nothing, connections, keep_alive=7, head_bytes=123)


@pytest.mark.anyio
async def test_the_protocol_has_the_attributes() -> None:
    state = ServerState()
    protocol = HttpToolsProtocol(server().config, state, {}, asyncio.get_running_loop())
    protocol.on_message_begin()
    missing = [name for name in (*READ, "url") if not hasattr(protocol, name)]
    assert not missing, f"HttpToolsProtocol lacks {missing} {UVICORN}"
    assert protocol.scope["headers"] is protocol.headers, f"the scope has other headers {UVICORN}"


def test_an_answer_uses_no_more_of_its_transport_than_joined_has() -> None:
    source = inspect.getsource(RequestResponseCycle)
    used = set(re.findall(r"self\.transport\.(\w+)", source))
    assert used, f"RequestResponseCycle.transport is not used {UVICORN}"
    lacking = {name for name in used if not hasattr(Joined, name)}
    assert "self.response_complete =" in source, f"no response_complete {UVICORN}"
    assert not lacking, f"RequestResponseCycle uses transport.{lacking} {UVICORN}"
    source = inspect.getsource(RequestResponseCycle)
    assert "self.response_complete" in source, (
        f"no RequestResponseCycle.response_complete {UVICORN}"
    )


def test_the_server_has_what_is_overridden_and_set() -> None:
    assert [*inspect.signature(uvicorn.Server.startup).parameters] == ["self", "sockets"], UVICORN
    assert hasattr(uvicorn.Server, "capture_signals"), f"no Server.capture_signals {UVICORN}"
    running = server()
    assert running.started is running.should_exit is False, f"no Server.started {UVICORN}"
    assert running.config.h11_max_incomplete_event_size == 123, UVICORN


def test_the_parser_reports_offers_and_takes_the_rest() -> None:
    needed = ("feed_data", "get_method", "get_http_version", "should_upgrade")
    missing = [name for name in needed if not hasattr(httptools.HttpRequestParser, name)]
    assert not missing, f"HttpRequestParser lacks {missing} {HTTPTOOLS}"
    head = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as raised:
        httptools.HttpRequestParser(object()).feed_data(head + b"rest")
    assert raised.value.args[0] == len(head), f"HttpParserUpgrade has no offset {HTTPTOOLS}"
