# SPDX-License-Identifier: Apache-2.0
"""A placeholder that went to a host of no secret: told where that refused it, not elsewhere."""

from __future__ import annotations

import pytest
from tests.domain.evidence import diagnosis_of, failed

from waggle.domain.diagnosis.rules import diagnose

SECRETS = {"FORGE_TOKEN": ("forge.example", "*.forge.example")}
GIT = "fatal: Authentication failed for 'https://other.example/a.git/'"


@pytest.mark.parametrize(
    "said",
    [
        GIT,
        "fatal: could not read Username for 'https://other.example': terminal prompts disabled",
        "fatal: unable to access 'https://other.example/': The requested URL returned error: 403",
        "curl: (22) The requested URL returned error: 401",
        "requests.exceptions.HTTPError: 401 Client Error: x for url: https://other.example/",
        "urllib.error.HTTPError: HTTP Error 401: No",
        '{"message": "Bad credentials"}',
        "npm error code E401",
        "HTTP/2 401",
        "AxiosError: Request failed with status code 401",
    ],
)
def test_a_refusal_by_another_host_is_explained(said: str) -> None:
    found = diagnosis_of(failed(said, secrets=SECRETS, reached=("other.example",)))
    assert found.code == "secret_elsewhere"
    assert "other.example refused" in found.cause
    assert "$FORGE_TOKEN to forge.example, *.forge.example" in found.cause


def test_the_host_that_the_program_names_counts_where_several_were_reached() -> None:
    reached = ("cdn.example", "api.forge.example", "other.example")
    found = diagnosis_of(failed(GIT, secrets=SECRETS, reached=reached))
    assert "other.example refused" in found.cause


@pytest.mark.parametrize(
    "said, reached",
    [
        (GIT.replace("other", "forge"), ("forge.example",)),
        ("HTTP Error 401: No", ("cdn.example", "forge.example")),
        (GIT, ()),
        ("AssertionError: 401 != 200", ("other.example",)),
    ],
)
def test_other_failures_are_not(said: str, reached: tuple[str, ...]) -> None:
    found = diagnose(failed(said, secrets=SECRETS, reached=reached))
    assert found is None


def test_without_secrets_nothing_is_said_of_them() -> None:
    assert diagnose(failed(GIT, reached=("other.example",))) is None
