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
    held = HeldSecrets({"github": PLACEHOLDER}, "a key")
    assert held_in(held.facts()) == held
    assert held_in(None) == NO_SECRETS
    assert held
    assert not NO_SECRETS


def test_the_authoritys_key_is_in_no_text_form() -> None:
    assert "a key" not in repr(HeldSecrets({"github": PLACEHOLDER}, "a key"))


def test_variables_with_placeholders_are_left_out() -> None:
    variables = {"GITHUB_TOKEN": PLACEHOLDER, "HOME": "/root", "X": f"{PLACEHOLDER}0"}
    assert without_placeholders(variables) == {"HOME": "/root", "X": f"{PLACEHOLDER}0"}


def test_a_server_without_secrets_says_which_setting_there_is() -> None:
    with pytest.raises(NotFound) as refused:
        NoGranting().grant("id", "ann", ["github"])
    assert "WAGGLE_SECRETS_FILE" in (refused.value.hint or "")
