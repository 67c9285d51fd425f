# SPDX-License-Identifier: Apache-2.0
"""The client of a VMM that was taken over: what is no answer, and that all it takes is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import pytest
from tests.support.vmm_server import Script, heard, speaking

from waggle.infra.vmm import firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import MAX_REASON, VmmLost, VmmRefused
from waggle.infra.vmm.exchange import BODY_BYTES, HEAD_BYTES, MOST_INTERIM, MOST_PIECES
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]
INFO = b'{"app_name":"Firecracker","id":"x","state":"Running","vmm_version":"1.12.1"}'
OK = b"HTTP/1.1 200 \r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GIB = 1 << 30


@dataclass(frozen=True)
class Flood:
    """Some pieces, then many times another."""

    start: list[bytes]
    piece: bytes
    count: int

    def __iter__(self) -> Iterator[bytes]:
        return chain(self.start, repeat(self.piece, self.count))


def sized(body: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bytes_of(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def sends(pieces: Iterable[bytes], *, hold: bool = False, sent: list[int] | None = None) -> Script:
    """Answer a request with `pieces` as far as they are taken; then hang up, or wait."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if sent is not None:
                sent.append(len(piece))
            await asyncio.sleep(0)
        if hold:
            await reader.read()

    return script


async def call(directory: Path, script: Script, seconds: float = 20) -> firecracker.InstanceInfo:
    async with speaking(directory, script) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, Version(1, 12, 1), seconds=seconds)
        return await client.call(firecracker.DESCRIBE_INSTANCE)


LOST: dict[str, tuple[Iterable[bytes], str]] = {
    "nothing": ([], "without an answer"),
    "half a head": ([OK], "without an answer"),
    "half a body": ([sized(INFO)[:-5]], "not one of HTTP"),
    "half a chunk": ([CHUNKED, b"ff\r\n{"], "not one of HTTP"),
    "no end of chunks": ([CHUNKED, b"1\r\n{\r\n"], "not one of HTTP"),
    "no HTTP": ([b"hello there\r\n\r\n"], "not one of HTTP"),
    "HTTP/0.9": ([INFO], "not one of HTTP|without an answer"),
    "HTTP/2": ([b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18], "not one of HTTP|without an answer"),
    "a TLS alert": ([b"\x15\x03\x01\x00\x02\x02\x46" * 9], "not one of HTTP|without an answer"),
    "a bad status": ([b"HTTP/1.1 abc \r\n\r\n"], "not one of HTTP"),
    "a status of four digits": ([b"HTTP/1.1 2000 \r\n\r\n"], "not one of HTTP"),
    "an informational end": ([b"HTTP/1.1 101 \r\nUpgrade: x\r\n\r\n"], "not one of HTTP"),
    "a redirect": ([sized(b"", b"HTTP/1.1 302 \r\nLocation: http://127.0.0.1/\r\n")], "HTTP 302"),
    "another success": ([sized(INFO, b"HTTP/1.1 206 \r\n")], "HTTP 206"),
    "two lengths": ([OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"], "not one of HTTP"),
    "a negative length": ([OK + b"Content-Length: -1\r\n\r\n"], "not one of HTTP"),
    "a length that is none": ([OK + b"Content-Length: 0x5\r\n\r\n"], "not one of HTTP"),
    "a bad chunk size": ([CHUNKED, b"zz\r\n"], "not one of HTTP"),
    "NUL in a head": ([OK + b"X: a\0b\r\n\r\n"], "not one of HTTP"),
    "another encoding": ([OK + b"Transfer-Encoding: gzip\r\n\r\n"], "not one of HTTP"),
    "a body of 1 GiB": ([OK + b"Content-Length: %d\r\n\r\n" % GIB], "over 1,048,576 bytes"),
    "a chunk of 1 GiB": (
        Flood([CHUNKED, b"%x\r\n" % GIB], b"x" * 65536, 16384),
        "over 1,048,576 bytes",
    ),
    "a body without end": (
        Flood([OK + b"\r\n"], b"x" * 65536, 16384),
        "over 1,048,576 bytes",
    ),
    "chunks without end": (
        Flood([CHUNKED], b"1\r\nx\r\n", 1_000_000),
        f"over {MOST_PIECES:,} pieces",
    ),
    "a head without end": (Flood([OK], b"X: y\r\n", 1_000_000), "not one of HTTP"),
    "a line without end": (Flood([OK, b"X: "], b"y" * 4096, 250_000), "not one of HTTP"),
    "a chunk header without end": (
        Flood([CHUNKED, b"1;"], b"y" * 4096, 250_000),
        "not one of HTTP",
    ),
    "trailers without end": (
        Flood([CHUNKED, b"1\r\nx\r\n0\r\n"], b"X: y\r\n", 1_000_000),
        "not one of HTTP|pieces",
    ),
    "bytes of a head": (Flood([*bytes_of(OK)], b"x", 1_000_000), "pieces|not one of HTTP"),
    "100 for ever": (
        Flood([], b"HTTP/1.1 100 Continue\r\n\r\n", 1_000_000),
        "not one of HTTP",
    ),
    "103 for ever": (Flood([], b"HTTP/1.1 103 \r\nLink: x\r\n\r\n", 1_000_000), "not one of HTTP"),
    "no body": ([b"HTTP/1.1 204 \r\n\r\n"], "not as expected"),
    "an empty body": ([sized(b"")], "not as expected"),
    "no JSON": ([sized(b"hello")], "not as expected"),
    "JSON and more": ([sized(INFO + b"x")], "not as expected"),
    "half of JSON": ([sized(INFO[:-1])], "not as expected"),
    "gzip": ([sized(b"\x1f\x8b\x08" + b"\0" * 30, OK + b"Content-Encoding: gzip\r\n")], "expected"),
    "no UTF-8": ([sized(INFO.replace(b"Firecracker", b"\xff\xfe"))], "not as expected"),
    "a surrogate": ([sized(INFO.replace(b"Firecracker", b"\\ud800"))], "not as expected"),
    "another type": ([sized(b"[]")], "not as expected"),
    "null": ([sized(b"null")], "not as expected"),
    "a number for a text": ([sized(INFO.replace(b'"x"', b"5"))], "id Input should be"),
    "a state that is no text": ([sized(INFO.replace(b'"Running"', b"7"))], "state"),
    "a missing field": ([sized(b'{"id": "x"}')], "Field required"),
    "a long text": ([sized(INFO.replace(b'"x"', b'"%s"' % (b"x" * 2000)))], "at most 1024"),
    "deep JSON": ([sized(b"[" * 10_000)], "levels"),
    "deeper JSON": ([sized(b"[" * 500_000)], "lists and objects"),
    "wide JSON": ([sized(b"[" + b"{}," * 200_000 + b"{}]")], "lists and objects"),
    "many members": ([sized(b"[" + b"1," * 200_000 + b"1]")], "commas"),
    "a long number": ([sized(b"[" + b"9" * 900_000 + b"]")], "not as expected"),
    "a deep unknown field": (
        [sized(INFO[:-1] + b',"more":' + b"[" * 40 + b"]" * 40 + b"}")],
        "levels",
    ),
}


@pytest.mark.parametrize("name", LOST)
async def test_what_is_no_answer(name: str, tmp_path: Path) -> None:
    pieces, said = LOST[name]
    sent: list[int] = []
    with pytest.raises(VmmLost, match=said) as raised:
        await call(tmp_path, sends(pieces, sent=sent))
    error = raised.value
    assert error.call == "describeInstance"
    assert error.message.startswith("Firecracker did not carry out describeInstance (")
    assert error.message.isprintable()
    assert len(error.message) <= MAX_REASON + 100
    assert sum(sent) < 3 * BODY_BYTES, "what it did not take, it did not wait for"


@pytest.mark.parametrize("name", ["nothing", "a head", "half a body", "100"])
async def test_a_vmm_that_waits_in_the_middle(name: str, tmp_path: Path) -> None:
    start = {
        "nothing": b"",
        "a head": OK,
        "half a body": sized(INFO)[:-5],
        "100": b"HTTP/1.1 100 \r\n\r\n",
    }[name]
    with pytest.raises(VmmLost, match=r"no answer.*took more than 0\.05 s"):
        await call(tmp_path, sends([start], hold=True), seconds=0.05)


async def test_bytes_that_trickle_end_with_the_time(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for byte in bytes_of(OK + b"X: " + b"y" * 4000):
            writer.write(byte)
            await asyncio.sleep(0.01)

    with pytest.raises(VmmLost, match=r"took more than 0\.1 s"):
        await call(tmp_path, script, seconds=0.1)


@pytest.mark.parametrize(
    "pieces",
    [
        [sized(INFO)],
        list(bytes_of(sized(INFO))),
        [CHUNKED, *(b"1\r\n%c\r\n" % byte for byte in INFO), b"0\r\n\r\n"],
        [OK + b"\r\n", INFO],
        [b"HTTP/1.1 100 \r\n\r\n" * (MOST_INTERIM - 1), sized(INFO)],
        [OK + b"X: " + b"y" * (HEAD_BYTES - 100) + b"\r\n" + sized(INFO)[len(OK) :]],
        [sized(INFO[:-1] + b',"newer":[{"a":[1,2]}]}')],
        [sized(INFO + b" " * (BODY_BYTES - len(INFO)))],
        [sized(INFO), sized(INFO.replace(b"Running", b"Paused")) * 3],
        [b"HTTP/1.0 200 OK\r\n\r\n", INFO],
    ],
    ids=[
        "one-piece", "bytes", "chunks", "until-the-end", "interim", "long-head", "newer-fields",
        "long-body", "a-second-answer", "HTTP/1.0",
    ],
)  # fmt: skip
async def test_odd_answers_that_are_valid(pieces: list[bytes], tmp_path: Path) -> None:
    info = await call(tmp_path, sends(pieces))
    assert (info.id, info.state) == ("x", "Running")


async def test_a_flood_leaves_the_event_loop_to_others(tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(CHUNKED + b"1\r\nx\r\n" * 100_000)
        await writer.drain()

    task = asyncio.create_task(others())
    try:
        with pytest.raises(VmmLost, match="pieces"):
            await call(tmp_path, script)
    finally:
        task.cancel()
    assert turns > MOST_PIECES / 16


@pytest.mark.parametrize(
    "body",
    [
        b'{"fault_message": "' + b"x" * 100_000 + b'"}',
        b"x" * 100_000,
        b'["' + b'a","' * 20_000 + b'"]',
        b"[" * 100_000,
        b'{"fault_message": "\\u001b[31mred\\u0000\\r\\n\\u202eevil"}',
        b"\x1b[2J\0\xff\xfe\r\nHTTP/1.1 200 OK",
        b'{"error": "one\ntwo"}',
        b'{"fault_message": {"a": 1}}',
        b'"text"',
        b"5",
    ],
    ids=range(10),
)
async def test_reasons_are_clean_and_short(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(VmmRefused) as raised:
        await call(tmp_path, sends([sized(body, b"HTTP/1.1 500 \r\n")]))
    error = raised.value
    assert error.status == 500
    assert error.message.isprintable()
    assert 0 < len(error.reason) <= MAX_REASON


async def test_an_error_without_end_is_cut(tmp_path: Path) -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n"
    flood = Flood([head], b"1000\r\n" + b"y" * 4096 + b"\r\n", 250_000)
    with pytest.raises(VmmRefused, match="yyy") as raised:
        await call(tmp_path, sends(flood, sent=sent))
    assert len(raised.value.reason) == MAX_REASON
    assert sum(sent) < BODY_BYTES
