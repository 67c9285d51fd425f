# SPDX-License-Identifier: Apache-2.0
"""Tars that waggle writes are read correctly by Python's tarfile and by waggle's reader."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry
from waggle.infra.archive.trees import END, content, header, read_archive

names = st.binary(min_size=1, max_size=250).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")
)
entries = st.one_of(
    st.builds(TreeEntry, st.just(Kind.FILE), names, st.integers(0, 0o777), st.integers(0, 8**11),
              st.binary(max_size=1_200)),
    st.builds(TreeEntry, st.just(Kind.DIRECTORY), names, st.integers(0, 0o777)),
    st.builds(TreeEntry, st.just(Kind.LINK), names, st.just(0o644), st.just(0), names),
)  # fmt: skip


@given(entries)
def test_any_entry_can_be_read_back(entry: TreeEntry) -> None:
    data = header(entry.name, entry) + b"".join(content(entry)) + END
    [ours] = read_archive(data)
    assert ours == TreeEntry(
        entry.kind, entry.name, entry.mode, min(entry.modified, 8**11 - 1), entry.data
    )
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        [info] = archive.getmembers()
        file = archive.extractfile(info) if info.isfile() else None
        assert info.name.encode("utf-8", "surrogateescape") == entry.name
        assert info.linkname.encode("utf-8", "surrogateescape") == (
            entry.data if entry.kind is Kind.LINK else b""
        )
        assert file is None or file.read() == entry.data
        assert (info.uid, info.gid) == (0, 0)
