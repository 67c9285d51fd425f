# SPDX-License-Identifier: Apache-2.0
"""The secrets file: what it says, who may read it, and errors that name the line and no value."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from waggle.domain.access import Owner
from waggle.domain.errors import SettingsInvalid
from waggle.infra.access.secrets_file import load_secrets, parse_secrets

if TYPE_CHECKING:
    from pathlib import Path

VALUE = "ghp_1234567890"
GOOD = f"""
[secrets.github]
value = "{VALUE}"
variable = "GITHUB_TOKEN"
hosts = ["API.example.org", "*.git.example.org"]
owners = ["ann", "bob"]
places = ["header:Authorization", "query"]

[secrets.maps]
command = ["pass", "show", "maps"]
lifetime = 60
variable = "MAPS_KEY"
hosts = ["maps.example.org"]
owners = ["*"]

[secrets.npm]
file = "/run/secrets/npm"
variable = "NPM_TOKEN"
hosts = ["npm.example.org"]
"""


def test_everything_that_it_can_say() -> None:
    entries = parse_secrets(GOOD.encode())
    github, maps, npm = (entries[name] for name in ("github", "maps", "npm"))
    assert github.value is not None
    assert github.value.reveal() == VALUE.encode()
    assert github.secret.hosts == ("api.example.org", "*.git.example.org")
    assert github.secret.owners == {Owner("ann"), Owner("bob")}
    assert github.secret.places == ("header:authorization", "query")
    assert (maps.command, maps.lifetime) == (("pass", "show", "maps"), 60)
    assert (maps.secret.owners, maps.secret.places) == (None, ("headers",))
    assert str(npm.file) == "/run/secrets/npm"
    assert VALUE not in repr(entries)


BASE = f"""
[secrets.a]
value = "{VALUE}"
variable = "A"
hosts = ["a.example.org"]
"""


@pytest.mark.parametrize(
    "text, line",
    [
        (f'[secrets.a]\nvalue = "{VALUE}', "Line 2 "),
        (f"# fine\n\n[secrets.a]\nvalue = {VALUE}\n", "Line 4 "),
        (BASE + "\n[secrets.b]\nvariable = 'B'\nhosts = ['b.example.org']\n", "Line 7 "),
        (BASE.replace(VALUE, "short77"), "Line 2 "),
        (BASE.replace(VALUE, VALUE + "\\n"), "Line 2 "),
        (BASE.replace("variable", "varable"), "Line 2 "),
        (BASE.replace("a.example.org", "*"), "Line 2 "),
        (BASE.replace('["a.example.org"]', '"a.example.org"'), "Line 2 "),
        (BASE + "command = ['x']", "Line 2 "),
        (BASE.replace(f'value = "{VALUE}"', "command = []"), "Line 2 "),
        (BASE.replace(f'value = "{VALUE}"', "command = 'pass show a'"), "Line 2 "),
        (BASE.replace(f'value = "{VALUE}"', "file = 'relative'"), "Line 2 "),
        (BASE + "lifetime = 0", "Line 2 "),
        (BASE + "owners = ['a b']", "Line 2 "),
        (BASE + "places = ['body']", "Line 2 "),
        (BASE.replace("secrets.a", "secrets.'a b'"), "Line 2 "),
        ("[other]\nx = 1", "only tables"),
        ("secrets = 1", "only tables"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("a = " + "9" * 5000, "not valid TOML"),
    ],
)
def test_errors_name_the_line_and_no_value(text: str, line: str) -> None:
    with pytest.raises(SettingsInvalid) as error:
        parse_secrets(text.encode())
    assert line in str(error.value)
    assert VALUE not in str(error.value)
    assert "short77" not in str(error.value)


def test_a_line_that_is_not_utf8_is_named() -> None:
    with pytest.raises(SettingsInvalid, match=r"Line 3 .* not UTF-8"):
        parse_secrets(b"\n\n\xff\n")


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    path.write_text(GOOD)
    path.chmod(0o640)
    with pytest.raises(SettingsInvalid, match=r"open to others \(mode 0640\)"):
        load_secrets(path)
    path.chmod(0o600)
    assert len(load_secrets(path)[0]) == 3


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsInvalid, match="no regular file"):
        load_secrets(tmp_path / "pipe")
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_secrets(tmp_path / "missing")
    large = tmp_path / "large"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    large.chmod(0o600)
    with pytest.raises(SettingsInvalid, match="over 1048576 bytes"):
        load_secrets(large)
