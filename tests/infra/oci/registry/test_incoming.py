# SPDX-License-Identifier: Apache-2.0
"""A reader follows a transfer: it never hangs, and sees the end only after verification."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from waggle.domain.errors import ImageUnavailable
from waggle.infra.oci.registry.blobs import Incoming

SECONDS = 20
FIRST, SECOND = b"f" * 1000, b"s" * 3_000_000
DIGEST = f"sha256:{hashlib.sha256(FIRST + SECOND).hexdigest()}"


@pytest.fixture
def incoming(tmp_path: Path) -> Generator[Incoming]:
    made = Incoming(tmp_path / "blob")
    yield made
    made.close()


@pytest.fixture
def pool() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def following(incoming: Incoming, pool: ThreadPoolExecutor) -> Future[bytes]:
    """Read to the end in another thread."""

    def follow() -> bytes:
        with incoming.reader() as reader:
            return reader.read()

    return pool.submit(follow)


def test_a_reader_gets_data_as_it_arrives(
    incoming: Incoming, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with incoming.reader() as reader:
        incoming.write([FIRST])
        assert reader.read(1000) == FIRST
        more = pool.submit(reader.read, len(SECOND))
        incoming.write([SECOND[:1], SECOND[1:]])
        assert more.result(SECONDS) == SECOND
        end = pool.submit(reader.read, 1)
        assert incoming.verify(DIGEST)
        assert end.result(SECONDS) == b""
    assert (tmp_path / "blob").read_bytes() == FIRST + SECOND


def test_the_end_is_seen_only_after_the_digest_matched(
    incoming: Incoming, pool: ThreadPoolExecutor
) -> None:
    incoming.write([FIRST])
    read = following(incoming, pool)
    assert not incoming.verify(DIGEST)
    assert not read.done()
    incoming.write([SECOND])
    assert incoming.verify(DIGEST)
    assert read.result(SECONDS) == FIRST + SECOND


def give_up(incoming: Incoming) -> None:
    incoming.close()


def begin_again(incoming: Incoming) -> None:
    incoming.restart()
    incoming.write([FIRST, SECOND])
    incoming.verify(DIGEST)


@pytest.mark.parametrize("happens", [give_up, begin_again])
def test_a_reader_fails_when_its_data_is_discarded(
    incoming: Incoming, pool: ThreadPoolExecutor, happens: Callable[[Incoming], None]
) -> None:
    with incoming.reader() as reader:
        incoming.write([b"wrong"])
        assert reader.read(5) == b"wrong"
        waits = pool.submit(reader.read, 1)
        happens(incoming)
        with pytest.raises(ImageUnavailable, match=r"given up|began again"):
            waits.result(SECONDS)


def test_a_reader_that_has_read_nothing_survives_a_restart(
    incoming: Incoming, pool: ThreadPoolExecutor
) -> None:
    with incoming.reader() as reader:
        incoming.write([b"wrong"])
        begin_again(incoming)
        assert pool.submit(reader.read).result(SECONDS) == FIRST + SECOND


def test_a_reader_continues_after_the_writer_is_done_and_the_file_is_gone(
    incoming: Incoming, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with incoming.reader() as reader:
        incoming.write([FIRST, SECOND])
        assert incoming.verify(DIGEST)
        incoming.close()
        (tmp_path / "blob").unlink()
        assert pool.submit(reader.read).result(SECONDS) == FIRST + SECOND


def test_an_empty_blob_ends_at_once(incoming: Incoming, pool: ThreadPoolExecutor) -> None:
    assert incoming.verify(f"sha256:{hashlib.sha256().hexdigest()}")
    assert following(incoming, pool).result(SECONDS) == b""
