# SPDX-License-Identifier: Apache-2.0
"""`waggle doctor` on a host that can run machines, and on one that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.images import busybox_layer, write_layout
from tests.support.own_process import typed
from tests.support.settings import settings_in
from tests.support.waggle_process import command_line, own_cache, running

from waggle.cli.doctor import fixes, network_words
from waggle.infra.host.install import Plan, make_plan
from waggle.infra.host.requirements import SystemPackage
from waggle.infra.oci.build.definition import load_definition
from waggle.infra.oci.build.pack import FINGERPRINT, fingerprint
from waggle.shipped import IMAGES

NAMES = {"python", "qemu", "acceleration", "kernel", "guest kit", "images", "data directory"}


def test_a_host_that_is_not_set_up_fails(tmp_path: Path) -> None:
    cache = {"image_cache_dir": str(tmp_path / "cache")}
    ended = typed("doctor", "--json", data=tmp_path / "data", settings=cache)
    assert ended.returncode == 1
    checks = {check["name"]: check for check in json.loads(ended.stdout)}
    assert set(checks) >= NAMES
    for name in ("kernel", "guest kit"):
        assert checks[name]["status"] == "fail"
        assert "waggle setup" in checks[name]["mend"]
    assert "waggle image build" in checks["images"]["mend"]
    for check in checks.values():
        assert (check["status"] == "ok") == (check["mend"] == ""), check

    shown = typed("doctor", "--fix", data=tmp_path / "data", settings=cache)
    assert shown.returncode == 1
    assert "fail guest kit" in shown.stdout
    assert "Environments cannot be created here" in shown.stdout
    assert shown.stdout.endswith("  waggle setup --yes\n  waggle image build --missing\n")
    assert not (tmp_path / "cache").exists(), "looking changes nothing"


PACKAGE = SystemPackage("qemu", "runs machines", frozenset({"serve"}), "qemu", None, None, None)
DONE = Plan((), (), can_act=True)


def test_fixes_are_commands_that_mend() -> None:
    assert fixes(DONE, parts=True, images=True) == [
        "Nothing is missing that 'waggle setup' or 'waggle image build' could install."
    ]
    assert fixes(DONE, parts=False, images=True)[1:] == ["  waggle setup --yes"]
    assert fixes(DONE, parts=True, images=False)[1:] == ["  waggle image build --missing"]
    by_waggle = make_plan([PACKAGE], "apt", "sudo")
    assert fixes(by_waggle, parts=True, images=True)[1:] == ["  waggle setup --yes"]
    by_hand = make_plan([PACKAGE], "apt", "none")
    *by_hand_first, last = fixes(by_hand, parts=True, images=True)[1:]
    assert [line.split()[0] for line in by_hand_first] == ["sudo", "sudo"]
    assert last == "  waggle setup --yes"


def test_a_missing_hypervisor_fails(tmp_path: Path) -> None:
    settings = {"image_cache_dir": str(tmp_path / "c"), "qemu_binary": "/no/such/qemu"}
    ended = typed("doctor", "--json", data=tmp_path / "data", settings=settings)
    assert ended.returncode == 1
    (check,) = [check for check in json.loads(ended.stdout) if check["name"] == "qemu"]
    assert check["status"] == "fail"


def test_images_of_an_earlier_definition_are_a_warning(tmp_path: Path) -> None:
    mirror = "http://archive.test/debian"
    current = fingerprint(load_definition(IMAGES, "node"), mirror)
    made_from = {"python": {FINGERPRINT: "0" * 16}, "node": {FINGERPRINT: current}, "shell": {}}
    store = tmp_path / "cache" / "images"
    for name, labels in made_from.items():
        write_layout(store, [busybox_layer()], name=name, config={"Labels": labels})
    settings = {
        "image_cache_dir": str(tmp_path / "cache"),
        "debian_mirror": mirror,
        "image_data": "node",
    }
    ended = command_line("doctor", "--json", "--fix", data=tmp_path / "data", settings=settings)
    (check,) = [check for check in json.loads(ended.stdout) if check["name"] == "images"]
    assert (check["status"], check["mend"]) == ("warn", "Run: waggle image build python")
    assert check["detail"].endswith("archive: python"), "one without a label is somebody's own"
    assert "  waggle image build --missing\n" in ended.stderr


@pytest.mark.vm
def test_a_host_that_is_set_up_passes(tmp_path: Path) -> None:
    ended = command_line("doctor", "--json", data=tmp_path / "data", settings={})
    failed = [check for check in json.loads(ended.stdout) if check["status"] == "fail"]
    assert (ended.returncode, failed) == (0, [])


@pytest.mark.vm
def test_doctor_works_beside_a_running_server(tmp_path: Path) -> None:
    cache = own_cache(tmp_path / "cache")
    with running(tmp_path, {"image_cache_dir": str(cache)}) as server:
        address = {"listen_addr": server.url.removeprefix("http://")}
        for data in (server.data, tmp_path / "another"):
            ended = command_line("doctor", "--json", data=data, settings=server.settings | address)
            checks = {check["name"]: check for check in json.loads(ended.stdout)}
            assert checks["listen address"]["status"] != "fail", "the server itself has it"
            assert checks["images"]["status"] == "fail"
            assert ended.returncode == 1


def test_the_network_that_the_maximum_leaves_is_named(tmp_path: Path) -> None:
    assert network_words(settings_in(tmp_path)) == "public by default, at most public"
    assert network_words(settings_in(tmp_path, max_network="none")) == (
        "none by default, because WAGGLE_MAX_NETWORK allows no more"
    )
