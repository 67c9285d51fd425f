# SPDX-License-Identifier: Apache-2.0
"""The files of the packages agree with the code: versions, policy, settings, units, scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packages.make import CHECKOUT, NO_COMMIT, date_of, values
from packages.stage import FILES, Stage, filled

from waggle import __version__
from waggle.cli.main import WRONG_SETTINGS
from waggle.config import load

AGENT = CHECKOUT / "src/waggle/infra/rootfs/kit/agent"
KINDS = ("agent", "server")
METHOD = re.compile(r'^    \{"(\w+)", (?:\w+, ){2}.*?, (true|false),', re.M)
VALUES = {**values(__version__, NO_COMMIT), "SBIN": "/usr/sbin", "EXAMPLES": "/e", "PACKAGE": "p"}


def text(name: str) -> str:
    return filled((FILES / name).read_text("utf-8"), VALUES)


def units(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_the_agent_has_the_version_of_its_package() -> None:
    defined = re.findall(r'#define AGENT_VERSION "([^"]+)"', (AGENT / "main.c").read_text())
    assert defined == [__version__]
    for name in ("agent/control", "server/control"):
        assert f"\nVersion: {__version__}-1\n" in text(name)
    assert f"\nVersion: {__version__}\nRelease: 1\n" in text("agent/waggle-agent.spec")
    assert text("changelog").startswith(f"p ({__version__}-1) ")


@pytest.mark.parametrize(
    "path", sorted(path for path in FILES.rglob("*") if path.is_file()), ids=lambda p: p.name
)
def test_templates_name_only_values_that_exist(path: Path) -> None:
    assert not re.search(r"@[A-Z_]+@", text(str(path.relative_to(FILES))))


def test_the_policy_is_the_default_of_the_agent() -> None:
    """Written out, so that an administrator sees what there is to change."""
    policy = json.loads(text("agent/config.json"))
    page = (CHECKOUT / "docs/guest-agent.md").read_text("utf-8")
    defaults = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.M))
    assert policy["methods"]["allow"] == ["*"]
    named = set(re.findall(r"`(\w+)`", defaults["methods"]))
    off = {
        name
        for name, is_on in METHOD.findall((AGENT / "methods.c").read_text("utf-8"))
        if is_on == "false"
    }
    assert set(policy["methods"]["deny"]) == named == off
    for name in ("read", "write"):
        assert policy[name] == {"allow": ["/tmp", "/var/tmp"], "deny": []}
    assert (policy["exec"], policy["users"]) == (None, ["nobody"])
    example = json.loads(re.findall(r"```json\n(\{\n.+?\n\})\n```", page, re.S)[-1])
    assert policy["limits"] == example["limits"], "which the page calls the defaults"
    assert set(policy) == set(example) == set(defaults) & set(example)


def test_every_setting_in_the_file_of_the_service_is_one(tmp_path: Path) -> None:
    lines = re.findall(r"^#(WAGGLE_\w+)=(.*)$", text("server/waggle.env"), re.M)
    given = dict(lines)
    assert len(given) == len(lines) > 8
    rules = tmp_path / "rules.toml"
    rules.write_text("[rules]\n")
    assert load(given | {"WAGGLE_NETWORK_RULES": str(rules)}, is_root=True).auth_tokens_file
    defaults = ("LISTEN_ADDR", "MAX_ENVIRONMENTS", "DEFAULT_CPUS", "DEFAULT_MEMORY_MB")
    for name in (f"WAGGLE_{name}" for name in defaults):
        assert load({name: given[name]}) == load({}), "what is commented out is the default"
    unit = dict(units(text("server/waggle.service")))
    own = dict(word.split("=", 1) for word in unit["Environment"].split() if "WAGGLE" in word)
    assert load(own, is_root=True).data_dir == load({}, is_root=True).data_dir


def test_commands_take_the_settings_of_the_service_as_systemd_reads_them(tmp_path: Path) -> None:
    settings, waggle = tmp_path / "waggle.env", tmp_path / "waggle"
    settings.write_text(
        "# WAGGLE_A=no\n#WAGGLE_B=no\nWAGGLE_C=$(id) `id` $HOME\nWAGGLE_D='a b'\n"
        'OTHER=no\n; WAGGLE_E=no\n\nWAGGLE_F="a\'b"\nWAGGLE_G=a=b'
    )
    waggle.write_text('#!/bin/sh\nenv | grep -E "^(WAGGLE|OTHER)" | sort; echo "$@"\n')
    waggle.chmod(0o755)
    script = text("server/with-settings").replace("/etc/waggle/waggle.env", str(settings))
    script = script.replace("/usr/bin/waggle ", f"{waggle} ")
    done = subprocess.run(
        ["sh", "-c", script, "sh", "doctor", "a b"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "WAGGLE_C=$(id) `id` $HOME",
        "WAGGLE_D=a b",
        "WAGGLE_DATA_DIR=/var/lib/waggle",
        "WAGGLE_F=a'b",
        "WAGGLE_G=a=b",
        "doctor a b",
    ]


UNITS = {
    "waggle.service": ("server", ["unprivileged.conf"]),
    "waggle-agent.service": ("agent", ["exec.conf", "power.conf", "files.conf"]),
}


NOTIFY_RELOAD = 253
"""The first systemd that has it. The package is for a later one; tests run on Debian 12, too."""


def _systemd() -> int:
    argv = ["systemd-analyze", "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return int(said.split()[1])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
@pytest.mark.parametrize("unit", UNITS)
def test_units_and_their_examples_are_valid(unit: str, tmp_path: Path) -> None:
    folder, examples = UNITS[unit]
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for example in ["", *examples]:
        place = tmp_path / f"with-{example}"
        place.mkdir()
        file = place / unit
        lines = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text(f"{folder}/{unit}"))
        if _systemd() < NOTIFY_RELOAD:
            lines = lines.replace("Type=notify-reload", "Type=notify")
        file.write_text(lines)
        if example:
            more = place / f"{unit}.d"
            more.mkdir()
            (more / example).write_text(text(f"{folder}/{example}"))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), example


def test_the_manager_of_the_service_waits_longer_than_the_server_itself() -> None:
    unit = dict(units(text("server/waggle.service")))
    assert unit["Type"] == "notify-reload", "a reload ends when the files are read"
    assert unit["RestartPreventExitStatus"] == str(WRONG_SETTINGS)
    assert unit["WatchdogSec"] == "5min", "longer than DEAD_SECONDS would be too long"
    assert unit["TimeoutStopSec"] == "3min"
    assert load({}).shutdown_timeout.total_seconds() < 120


def test_what_systemd_would_break_is_left_alone() -> None:
    agent = dict(units(text("agent/waggle-agent.service")))
    assert agent["RestrictSUIDSGID"] == "no", "it refuses openat2, which opens the agent's files"
    assert agent["PrivateTmp"] == "no", "files that are asked for are in the real one"
    server = units(text("server/waggle.service"))
    devices = [value for name, value in server if name == "DeviceAllow"]
    assert devices[0] == "/dev/char/10:232 rw", "a path must be there at the start"
    assert devices[1:] == ["char-misc m"], "others may be made, and not opened"
    spaces = {"user", "mnt", "net", "ipc", "uts", "pid"}
    assert set(dict(server)["RestrictNamespaces"].split()) == spaces, "those that machines get"


@pytest.mark.parametrize(
    "path",
    [
        *(FILES.parent / "steps").glob("*.sh"),
        *FILES.glob("*/*.sh"),
        *(FILES / kind / name for kind in KINDS for name in ("postinst", "prerm", "postrm")),
        FILES / "server/with-settings",
    ],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_scripts_are_valid(path: Path) -> None:
    script = path.read_bytes()
    subprocess.run(["sh", "-n"], input=script, check=True)
    assert b"set -e" in script


def test_a_stage_has_modes_of_its_own(tmp_path: Path) -> None:
    new = Stage(tmp_path / "stage", {"A": "1"})
    new.put("usr/bin/run", b"", runs=True)
    new.put("usr/share/text", b"")
    new.link("usr/bin/other", "run")
    made = new.directory("usr/lib/unpacked")
    (made / "open").write_bytes(b"")
    (made / "open").chmod(0o777)
    made.chmod(0o700)
    new.settle()
    modes = {
        str(path.relative_to(new.root)): path.stat().st_mode & 0o7777
        for path in new.root.rglob("*")
        if not path.is_symlink()
    }
    assert modes["usr/bin/run"] == 0o755
    assert modes["usr/share/text"] == modes["usr/lib/unpacked/open"] == 0o644
    assert modes["usr/lib/unpacked"] == 0o755
    with pytest.raises(KeyError):
        filled("@B@", {"A": "1"})


def test_the_date_is_that_of_the_last_commit(tmp_path: Path) -> None:
    assert date_of(CHECKOUT) > NO_COMMIT
    assert date_of(tmp_path) == NO_COMMIT
