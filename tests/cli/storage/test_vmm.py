# SPDX-License-Identifier: Apache-2.0
"""`waggle vmm`: programs are added, listed, checked and removed, but not what something needs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.infra.store.saved import environment
from tests.service.local.frozen.kept import VMM, kept
from tests.support import harm
from tests.support.fake_vmm import fake_vmm, firecracker, jailer
from tests.support.waiting import until_sync

from waggle.cli.main import main
from waggle.cli.storage.vmm import needed, store
from waggle.config.places import Places
from waggle.domain.environment import Environment
from waggle.infra.shared.confined import identify
from waggle.infra.store.environments import SqliteStore
from waggle.infra.vmm.kept import digest_of

V = "1.13.0"
NEWER = "newer than what was tested (1.12.1)"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("programs")
    firecracker(place / "fc" / "firecracker")
    jailer(place / "fc" / "jailer")
    fake_vmm(place / "ch", "cloud-hypervisor v48.0.0")
    firecracker(place / "old", "1.9.0")
    return place


class Host:
    """A host with a data directory, and its operator."""

    def __init__(self, here: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.places = Places(here / "data", here / "cache")
        self._captured = captured

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["vmm", *map(str, words)])
        shown = self._captured.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def waggle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Host:
    host = Host(tmp_path, capsys)
    monkeypatch.setenv("WAGGLE_DATA_DIR", str(host.places.data))
    monkeypatch.setenv("WAGGLE_IMAGE_CACHE_DIR", str(host.places.cache))
    return host


def test_nothing_is_there_at_first(waggle: Host) -> None:
    assert waggle("ls") == (0, "No programs. 'waggle vmm add PATH' adds Firecracker or "
                            "Cloud Hypervisor.\n", "")  # fmt: skip
    assert waggle("ls", "--json")[:2] == (0, "[]\n")
    assert waggle("check", "--json")[:2] == (0, "[]\n")
    code, out, err = waggle("rm", "firecracker", V)
    assert (code, out) == (1, "")
    assert "Firecracker 1.13.0 is not installed." in err
    assert not waggle.places.data.exists()


def test_programs_are_added_listed_checked_and_removed(waggle: Host, programs: Path) -> None:
    code, out, err = waggle("add", programs / "fc")
    assert (code, out) == (0, "firecracker 1.13.0\n")
    assert "Firecracker 1.13.0 with its jailer." in err
    assert f"This version is {NEWER}. If its machines fail" in err
    assert "was here already" in waggle("add", programs / "fc")[2]
    code, out, err = waggle("add", programs / "ch", "--json")
    added = json.loads(out)
    assert (code, added["vmm"], added["version"]) == (0, "cloud-hypervisor", "48.0.0")
    assert added["sha256"] == digest_of(programs / "ch")
    assert "no hypervisor here" in added["unasked"]
    err = waggle("add", programs / "ch")[2]
    assert "Name it in WAGGLE_HYPERVISOR, and run 'waggle setup'" in err

    code, out, _ = waggle("ls", "--json")
    rows = {row["vmm"]: row for row in json.loads(out)}
    assert (code, sorted(rows)) == (0, ["cloud-hypervisor", "firecracker"])
    assert rows["cloud-hypervisor"] == added
    assert Path(rows["firecracker"]["jailer"]).exists()
    for verb in ("ls", "check"):
        code, out, _ = waggle(verb)
        assert (code, out.count("usable"), out.count(f"usable, {NEWER}")) == (0, 2, 1)
    assert (rows["firecracker"]["warning"], added["warning"]) == (NEWER, "")

    assert waggle("rm", "firecracker", "v1.13") == (0, "firecracker 1.13.0\n", "")
    assert "firecracker" not in waggle("ls")[1]


def test_check_finds_what_was_replaced(waggle: Host, programs: Path) -> None:
    waggle("add", programs / "fc")
    path = Path(json.loads(waggle("ls", "--json")[1])[0]["path"])
    path.chmod(0o755)
    harm.flip(path)
    path.chmod(0o555)
    code, out, _ = waggle("check", "--json")
    (row,) = json.loads(out)
    assert code == 1
    assert row["problem"].endswith("was replaced: it is not the program that was added")
    assert waggle("add", programs / "fc")[0] == 0
    assert waggle("check")[0] == 0


def test_check_runs_the_program_again(waggle: Host, programs: Path) -> None:
    """A record that names another version than the program says, as no `add` writes it."""
    waggle("add", programs / "fc")
    directory = next(waggle.places.binaries.glob("firecracker/*/*"))
    moved = directory.parents[1] / "1.14.0" / directory.name
    shutil.copytree(directory, moved)
    record = moved / "record.json"
    fields = json.loads(record.read_text())
    record.chmod(0o644)
    record.write_text(json.dumps({**fields, "version": "1.14.0"}))
    code, out, _ = waggle("check", "--json")
    problems = {row["version"]: row["problem"] for row in json.loads(out)}
    assert code == 1
    assert problems == {V: "", "1.14.0": "it says that it is Firecracker 1.13.0"}


def test_refusals_say_what_to_do(waggle: Host, programs: Path) -> None:
    code, out, err = waggle("add", programs / "old")
    assert (code, out) == (2, "")
    assert "Firecracker 1.9.0 is not supported." in err
    assert "Supported are Firecracker 1.10.0 and newer" in err
    assert waggle("add", programs / "nothing")[0] == 2
    assert waggle("add", programs / "fc", "--jailer", programs / "ch")[0] == 2
    code, _, err = waggle("rm", "qemu", V)
    assert (code, "firecracker" in err) == (2, True)
    code, _, err = waggle("rm", "firecracker", "newest")
    assert (code, "'newest' is no version." in err) == (2, True)
    assert waggle("ls", "--json")[1] == "[]\n"


def test_a_version_that_something_needs_is_kept(waggle: Host, programs: Path) -> None:
    waggle("add", programs / "fc")
    digest = digest_of(programs / "fc" / "firecracker")
    data, cache = waggle.places.data, waggle.places.cache
    snapshot = kept(data)
    assert needed(waggle.places, digest) == ""
    manifest = snapshot / "manifest.json"
    assert VMM["vmm"] in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(VMM["vmm"], digest))
    for copy in (
        data / "environments" / "paused" / "frozen",
        data / "stdio" / "0a1b2c3d" / "snapshots" / "of-a-client",
        cache / "templates" / "made",
    ):
        shutil.copytree(snapshot, copy)
    why = needed(waggle.places, digest)
    assert f"2 snapshots ({snapshot.name}, of-a-client)" in why
    assert "1 environment that is paused (paused)" in why
    assert "1 template (made)" in why
    code, out, err = waggle("rm", "firecracker", V)
    assert (code, out) == (1, "")
    assert f"Firecracker 1.13.0 is needed by {why}." in err
    assert "--force" in err
    assert waggle("rm", "firecracker", V, "--force")[:2] == (0, "firecracker 1.13.0\n")


@contextmanager
def running(program: Path, place: Path) -> Generator[subprocess.Popen[bytes]]:
    place.mkdir(exist_ok=True)
    with subprocess.Popen([program, "--api-sock", "api.sock"], cwd=place) as process:
        try:
            until_sync((place / "api.sock").exists)
            yield process
        finally:
            process.kill()


def test_a_running_environment_needs_its_program(
    waggle: Host, programs: Path, tmp_path: Path
) -> None:
    waggle("add", programs / "fc")
    (one,) = store(waggle.places).installed()
    assert one.binary is not None
    with running(one.binary.path, tmp_path / "place") as process:
        record = replace(environment(), machine=identify(process.pid))
        anyio.run(saved, waggle.places.state, [record, environment(2)])
        code, _, err = waggle("rm", "firecracker", V)
        assert code == 1
        assert f"is needed by 1 running environment ({record.id})" in err
        of_a_client = waggle.places.stdio / "0a1b2c3d" / waggle.places.state.name
        of_a_client.parent.mkdir(parents=True)
        waggle.places.state.rename(of_a_client)
        code, _, err = waggle("rm", "firecracker", V)
        assert code == 1
        assert f"is needed by 1 running environment ({record.id})" in err
    assert waggle("rm", "firecracker", V)[0] == 0


async def saved(state: Path, records: list[Environment]) -> None:
    kept_records = await SqliteStore.open(state)
    for record in records:
        await kept_records.save(record)
    await kept_records.aclose()


def test_stdio_servers_share_the_programs(waggle: Host) -> None:
    places = waggle.places
    own = Places(places.stdio / "0a1b2c3d", places.cache)
    assert own.binaries == places.binaries == places.data / "system" / "binaries"
    other = Places(places.stdio / "mine", places.cache)
    assert other.binaries == places.stdio / "mine" / "system" / "binaries"
