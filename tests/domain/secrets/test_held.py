# SPDX-License-Identifier: Apache-2.0
"""The secrets that an environment holds, as records keep them."""

import pytest

from waggle.domain.errors import NotFound
from waggle.domain.secrets import mint
from waggle.domain.secrets.held import (
    NO_SECRETS,
    HeldSecrets,
    NoGranting,
    held_in,
    without_placeholders,
)

PLACEHOLDER = mint("github", lambda: "0" * 32)


def test_a_record_reads_back_the_same() -> None:
    held = HeldSecrets(
        {"github": PLACEHOLDER}, "a key", {"github": ("git.example", "*.example.net")}
    )
    assert held_in(held.facts()) == held
    assert held_in({"placeholders": {}, "authority": ""}) == NO_SECRETS, "of an earlier version"
    assert held_in(None) == NO_SECRETS
    assert held
    assert not NO_SECRETS


def test_the_authoritys_key_is_in_no_text_form() -> None:
    assert "a key" not in repr(HeldSecrets({"github": PLACEHOLDER}, "a key"))


def test_variables_with_placeholders_are_left_out() -> None:
    variables = {"GITHUB_TOKEN": PLACEHOLDER, "HOME": "/root", "X": f"{PLACEHOLDER}0"}
    assert without_placeholders(variables) == {"HOME": "/root", "X": f"{PLACEHOLDER}0"}


def test_variables_are_told_with_the_hosts_of_their_secrets() -> None:
    held = HeldSecrets({"github": PLACEHOLDER}, "a key", {"github": ("git.example",)})
    variables = {"GITHUB_TOKEN": PLACEHOLDER, "HOME": "/root"}
    assert held.hosts_of(variables) == {"GITHUB_TOKEN": ("git.example",)}


def test_a_server_without_secrets_says_which_setting_there_is() -> None:
    with pytest.raises(NotFound) as refused:
        NoGranting().grant("id", "ann", ["github"])
    assert "WAGGLE_SECRETS_FILE" in (refused.value.hint or "")
