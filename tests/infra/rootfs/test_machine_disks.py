# SPDX-License-Identifier: Apache-2.0
"""The identity disk, read back by the rules of the guest's init."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.guest.renewal import MAX_NAME
from waggle.infra.rootfs.kit import GUEST_SOURCES
from waggle.infra.rootfs.machine_disks import (
    MAX_ENVIRONMENT,
    MAX_PATH,
    MAX_USER,
    SEED_BYTES,
    identity_records,
    machine_records,
    network_records,
    pack,
)

STEP = 64 * 1024


def unpack(disk: bytes) -> dict[str, bytes]:
    """Return the records of a disk as kit/guest/identity.c reads them."""
    found: dict[str, bytes] = {}
    at = 0
    while True:
        name_size, size = struct.unpack_from("<II", disk, at)
        at += 8
        if name_size == 0:
            return found
        name = disk[at : at + name_size].decode()
        found[name] = disk[at + name_size : at + name_size + size]
        at += name_size + size


def disk(**changes: object) -> bytes:
    given: dict[str, object] = {
        "host_key": b"H",
        "authorized_keys": b"A",
        "hostname": "name",
        "environment": {"K": "v"},
        **changes,
    }
    return pack(identity_records(**given))  # type: ignore[arg-type]


def test_all_given_values_are_on_the_disk() -> None:
    assert unpack(disk(environment={"A": "1=2", "B": ""})) == {
        "host_key": b"H",
        "authorized_keys": b"A",
        "hostname": b"name",
        "environment": b"A=1=2\0B=\0",
    }
    assert unpack(disk(certificates=b"PEM"))["ca.pem"] == b"PEM"
    wishes = {"user": "app:web", "directory": "/srv/ő", "shell": "zsh"}
    assert {n: unpack(disk(**wishes))[n].decode() for n in wishes} == wishes


def test_a_machine_id_is_one_of_systemds_and_tells_nothing_of_its_owner() -> None:
    owner, seed = "5d6ab8f2-0c5a-4d8b-9d3a-2f0e3c1b7a66", b"s" * SEED_BYTES
    made = machine_records(owner, seed)
    assert re.fullmatch(rb"[0-9a-f]{32}\n", made["machine-id"])
    assert owner.replace("-", "").encode() not in made["machine-id"]
    assert made["seed"] == seed


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=15)


@given(st.dictionaries(names, st.binary(max_size=300), max_size=6))
def test_records_are_read_back_and_the_disk_is_whole_blocks(records: dict[str, bytes]) -> None:
    made = pack(records)
    assert unpack(made) == records
    assert len(made) % STEP == 0


def test_a_large_bundle_makes_a_larger_disk() -> None:
    made = disk(certificates=b"x" * 300_000)
    assert unpack(made)["ca.pem"] == b"x" * 300_000
    assert len(made) == 5 * STEP


@pytest.mark.parametrize("variables", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}])
def test_impossible_variables_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be expressed"):
        disk(environment=variables)


def test_more_variables_than_the_kit_reads_are_refused() -> None:
    fits = {"A": "x" * (MAX_ENVIRONMENT - 3)}
    assert len(unpack(disk(environment=fits))["environment"]) == MAX_ENVIRONMENT
    with pytest.raises(ValueError, match="over 65536 bytes"):
        disk(environment={"A": "x" * (MAX_ENVIRONMENT - 2)})


@pytest.mark.parametrize("record", [{"n" * (MAX_NAME + 1): b""}, {"": b""}, {"n": bytes(9 << 20)}])
def test_records_that_are_too_long_are_refused(record: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="too long"):
        pack(record)


@pytest.mark.parametrize(
    "wish", [{"user": "u" * 256}, {"directory": "/" * 4096}, {"shell": "\0"}, {"user": "a\0b"}]
)
def test_values_that_the_kit_could_not_read_are_refused(wish: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="too long or has a NUL"):
        disk(**wish)


def test_limits_of_host_and_kit_agree() -> None:
    header = (GUEST_SOURCES / "waggle.h").read_text()
    assert f"#define MAX_USER {MAX_USER} " in header
    assert f"#define MAX_PATH {MAX_PATH + 1}\n" in header
    assert re.search(r"#define MAX_ENVIRONMENT \(64u << 10\)", header)
    assert MAX_ENVIRONMENT == 64 << 10
    reader = (GUEST_SOURCES / "identity.c").read_text()
    assert f"char name[{MAX_NAME + 1}]" in reader
    assert "#define MAX_RECORD (8u << 20)" in reader
    assert f"#define MAX_SEED {SEED_BYTES}\n" in reader


def test_private_addresses_lead_to_the_proxy_unless_they_are_the_guests_own() -> None:
    words = network_records(is_there=True)["network"].decode().split()
    assert words[0] == "0.0.0.0/0", "the rest lies within"
    assert {"~10.0.0.0/8", "~192.168.0.0/16", "-224.0.0.0/3"} < set(words)
    assert len(words) < 64, "as many as kit/guest/reach.h has room for"
    assert network_records(is_there=False) == {"network": b""}
