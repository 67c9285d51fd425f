# SPDX-License-Identifier: Apache-2.0
"""One side of ended HTTP/2: what a peer's settings may cost."""

import asyncio

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes

from waggle.infra.net import Stream
from waggle.infra.net.tls.side import MAX_TABLE, Side

pytestmark = pytest.mark.anyio


class Sends(Stream):
    """A stream whose peer has sent this, and takes what it gets."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.taken = b""

    async def read(self, limit: int = 0) -> bytes:
        await asyncio.sleep(0)
        data, self._data = self._data, b""
        return data

    async def write(self, data: bytes) -> None:
        self.taken += data


@pytest.mark.parametrize("size", [0, 100, 2**32 - 1])
async def test_a_peer_that_allows_a_huge_table_of_headers_does_not_get_one(size: int) -> None:
    peer = H2Connection(H2Configuration(header_encoding=None))
    peer.initiate_connection()
    peer.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
    asked = {":method": "GET", ":scheme": "https", ":authority": "a.example", ":path": "/"}
    peer.send_headers(1, [*asked.items()], end_stream=True)
    stream = Sends(peer.data_to_send())
    side = Side(stream, is_server=True)
    side.start()
    assert await side.receive()
    while side.http.open_inbound_streams == 0:
        assert await side.receive()
    assert side.http.encoder.header_table_size == min(size, MAX_TABLE)
    side.http.send_headers(1, [(":status", "200"), ("x-some", "header")])
    await side.write_rest()
    answered = peer.receive_data(stream.taken)
    assert [event.headers for event in answered if isinstance(event, ResponseReceived)]
