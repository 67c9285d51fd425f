# SPDX-License-Identifier: Apache-2.0
"""Templates on the disk: complete or absent, and removed when they are damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waggle.domain.snapshot import TemplateKey
from waggle.infra.store.frozen_files import TemplateStore

FILES = ("ram", "state", "scratch.img", "identity.img")
KEY = TemplateKey({"image": "sha256:1", "kernel": "k", "cpus": "1"})


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "templates")


def make(store: TemplateStore, key: TemplateKey = KEY) -> None:
    with store.workspace() as work:
        for name in FILES:
            with (work / name).open("wb") as file:
                file.write(name.encode())
                file.truncate(1 << 20)  # mostly a hole
        store.place(key, work)


def again(store: TemplateStore) -> TemplateStore:
    """Return the store as another process sees it."""
    return TemplateStore(store.directory)


def test_a_placed_template_is_found_only_by_its_key(store: TemplateStore) -> None:
    assert store.find(KEY) is None
    make(store)
    found = store.find(KEY)
    assert found is not None
    assert found.key == KEY
    assert (found.directory / "ram").read_bytes().startswith(b"ram")
    assert found.size < 1 << 20
    other = TemplateKey({**KEY.parts, "kernel": "newer"})
    assert store.find(other) is None
    assert other.differences(KEY) == ["kernel"]
    assert [template.key for template in store.all()] == [KEY]


def test_an_abandoned_workspace_leaves_nothing(store: TemplateStore) -> None:
    with store.workspace() as work:
        (work / "ram").write_bytes(b"half")
    assert list(store.directory.iterdir()) == []


def test_leftovers_of_a_killed_server_are_swept_but_no_open_workspace(store: TemplateStore) -> None:
    left = store.directory / ".tmp-dead"
    left.mkdir(parents=True)
    (left / "ram").write_bytes(b"half")
    (store.directory / KEY.id).mkdir()  # partly removed
    with store.workspace() as work:
        again(store).sweep()
        assert work.exists()
    make(store)
    again(store).sweep()
    assert [path.name for path in store.directory.iterdir()] == [KEY.id]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "grown"])
def test_a_corrupt_template_is_removed_when_it_is_looked_up(
    store: TemplateStore, name: str, harm: str
) -> None:
    make(store)
    path = store.directory / KEY.id / name
    match harm:
        case "flip":
            with path.open("r+b") as file:
                file.seek(700_000)
                file.write(b"\1")
        case "cut":
            os.truncate(path, 100)
        case "grown":
            os.truncate(path, 2 << 20)
        case _:
            path.unlink()
    assert again(store).find(KEY) is None
    assert store.all() == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format": 99}', b"\xff", b'{"format": 1}'])
def test_a_template_with_a_bad_manifest_is_not_found(store: TemplateStore, text: bytes) -> None:
    make(store)
    (store.directory / KEY.id / "manifest.json").write_bytes(text)
    assert store.find(KEY) is None
    assert store.all() == []


def test_a_template_whose_manifest_has_another_key_is_not_found(store: TemplateStore) -> None:
    make(store)
    other = TemplateKey({"image": "sha256:2"})
    (store.directory / KEY.id).rename(store.directory / other.id)
    assert store.find(other) is None


def test_the_first_of_two_equal_templates_is_kept(store: TemplateStore) -> None:
    make(store)
    first = store.directory / KEY.id / "ram"
    inode = first.stat().st_ino
    make(store)
    assert first.stat().st_ino == inode
    assert len(list(store.directory.iterdir())) == 1


def test_removing_is_idempotent(store: TemplateStore) -> None:
    make(store)
    assert store.remove(KEY.id)
    assert not store.remove(KEY.id)
    assert store.find(KEY) is None


def test_a_template_of_another_format_is_replaced(store: TemplateStore) -> None:
    make(store)
    manifest = store.directory / KEY.id / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 1'))
    assert again(store).find(KEY) is None
    make(store)
    assert again(store).find(KEY) is not None


def test_trim_keeps_the_last_used_templates_of_every_owner(store: TemplateStore) -> None:
    def of(owner: str, number: int) -> TemplateKey:
        return TemplateKey({**KEY.parts, "cpus": str(number), "owner": owner})

    make(store)
    for age, key in enumerate([of("bob", 1), *(of("ann", number) for number in (1, 2, 3))]):
        make(store, key)
        os.utime(store.directory / key.id, (1_000 + age, 1_000 + age))
    os.utime(store.directory / KEY.id, (1, 1))
    store.trim(2, 9)
    assert {template.key.id for template in store.all()} == {
        key.id for key in (KEY, of("bob", 1), of("ann", 2), of("ann", 3))
    }, "templates without an owner stay, however old"
    store.trim(2, 2)
    assert {template.key.id for template in store.all()} == {
        KEY.id,
        of("ann", 2).id,
        of("ann", 3).id,
    }
