# SPDX-License-Identifier: Apache-2.0
"""The operator's secrets, from the file to an environment's proxy."""

import dataclasses
from pathlib import Path

import pytest
from tests.support.settings import settings_in
from tests.support.vm import environment

from waggle.app.network import Egress, operator_rules
from waggle.app.secrets import open_secrets
from waggle.domain.errors import InvalidArgument, NotFound
from waggle.domain.observer import Observer
from waggle.domain.secrets import has_shape
from waggle.infra.net.guest_request import Target
from waggle.infra.net.tls.authority import EnvironmentAuthority

pytestmark = pytest.mark.anyio
FILE = """
[secrets.github]
value = "ghp_0123456789"
variable = "GITHUB_TOKEN"
hosts = ["git.example.org"]

[secrets.maps]
value = "maps-0123456789"
variable = "MAPS_KEY"
hosts = ["*.maps.example.org"]
owners = ["ann"]

[secrets.gitlab]
value = "glp_0123456789"
variable = "GITHUB_TOKEN"
hosts = ["lab.example.org"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


async def test_an_environment_gets_placeholders_and_an_authority_for_their_hosts(
    tmp_path: Path, file: Path
) -> None:
    async with open_secrets(settings_in(tmp_path, secrets_file=str(file)), b"") as secrets:
        held, variables = secrets.granting.grant("id", "ann", ["github", "maps", "github"])
        assert variables == {
            "GITHUB_TOKEN": held.placeholders["github"],
            "MAPS_KEY": held.placeholders["maps"],
        }
        assert all(has_shape(text) for text in variables.values())
        authority = EnvironmentAuthority.load(held.authority.encode())
        assert authority.permits("git.example.org")
        assert authority.permits("a.maps.example.org")
        assert not authority.permits("example.org")
        other, _ = secrets.granting.grant("other", "ann", ["github"])
        assert other.placeholders["github"] != held.placeholders["github"]


async def test_the_secret_of_another_owner_is_not_there(tmp_path: Path, file: Path) -> None:
    async with open_secrets(settings_in(tmp_path, secrets_file=str(file)), b"") as secrets:
        for name in ("maps", "none"):
            with pytest.raises(NotFound) as refused:
                secrets.granting.grant("id", "bob", [name])
            assert refused.value.hint == "You may use: github, gitlab."


async def test_two_secrets_need_two_variables(tmp_path: Path, file: Path) -> None:
    async with open_secrets(settings_in(tmp_path, secrets_file=str(file)), b"") as secrets:
        with pytest.raises(InvalidArgument, match="the variable GITHUB_TOKEN"):
            secrets.granting.grant("id", "ann", ["github", "gitlab"])


async def test_the_number_of_secrets_is_bounded(tmp_path: Path, file: Path) -> None:
    async with open_secrets(settings_in(tmp_path, secrets_file=str(file)), b"") as secrets:
        with pytest.raises(InvalidArgument, match="at most 16"):
            secrets.granting.grant("id", "ann", [f"s{number}" for number in range(17)])


async def test_the_proxy_of_an_environment_ends_tls_for_its_secrets_alone(
    tmp_path: Path, file: Path
) -> None:
    settings = settings_in(tmp_path, secrets_file=str(file))
    async with open_secrets(settings, b"") as secrets:
        egress = Egress(settings, operator_rules(settings), Observer(), secrets=secrets)
        held, _ = secrets.granting.grant("id", "ann", ["github"])
        assert egress.new_proxy(environment()).secrets is None
        own = dataclasses.replace(environment(), owner="ann", secrets=held)
        assert egress.new_proxy(own).secrets is not None
    async with open_secrets(settings_in(tmp_path), b"") as none:
        egress = Egress(settings, operator_rules(settings), Observer(), secrets=none)
        ended = egress.new_proxy(own).secrets
        assert ended is not None, "without the file its secret is gone, and its host is known"
        assert ended.covers(Target("git.example.org", 443, None))
        assert not ended.covers(Target("example.org", 443, None))
