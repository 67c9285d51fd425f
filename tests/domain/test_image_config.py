# SPDX-License-Identifier: Apache-2.0
"""The variables, directory, user and shell read from an image's configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import ImageCorrupt
from waggle.domain.image import MAX_USER, image_directory, image_shell, image_user, image_variables

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def test_variables_without_a_name_are_dropped() -> None:
    assert image_variables(("A=b=c", "=x", "B", "C=")) == {"A": "b=c", "B": "", "C": ""}


@pytest.mark.parametrize(
    "given_, meant",
    [
        ("", ""),
        ("/", "/"),
        ("/app", "/app"),
        ("/app/", "/app"),
        ("app", "/app"),
        ("//app//src/./", "/app/src"),
        ("/app/../../etc", "/etc"),
        ("..", "/"),
        ("/ő dir", "/ő dir"),
    ],
)
def test_a_working_directory_is_made_absolute_and_normalized(given_: str, meant: str) -> None:
    assert image_directory(given_) == meant


@pytest.mark.parametrize("text", ["/\n", "/a\x1b[2J", "/" + "x" * 4095])
def test_an_impossible_working_directory_is_refused(text: str) -> None:
    with pytest.raises(ImageCorrupt, match="WorkingDir"):
        image_directory(text)


@given(texts)
def test_a_normalized_working_directory_has_no_parent_parts(text: str) -> None:
    try:
        path = image_directory(text)
    except ImageCorrupt:
        return
    assert image_directory(path) == path
    assert not path or (path.startswith("/") and ".." not in path.split("/"))


@given(texts | st.text())
def test_a_user_is_short_and_printable_for_any_text(text: str) -> None:
    found = image_user(text)
    assert len(found.encode()) <= MAX_USER
    assert found.isprintable()
    assert image_user(found) == found


def test_a_normal_user_is_not_changed() -> None:
    assert [image_user(text) for text in ("app:web", "1000:0", "a\n")] == [
        "app:web",
        "1000:0",
        "a?",
    ]


@pytest.mark.parametrize(
    "entrypoint, cmd, meant",
    [
        ([], ["bash"], "bash"),
        ([], ["/bin/zsh"], "/bin/zsh"),
        ([], ["/bin/sh", "-l"], "/bin/sh"),
        (["/usr/bin/fish"], [], "/usr/bin/fish"),
        (["bash"], ["-l"], "bash"),
        (["docker-entrypoint.sh"], ["bash"], "bash"),
        ([], [], ""),
        ([], ["python3"], ""),
        ([], ["sh", "-c", "true"], ""),
        ([], ["bash", "start.sh"], ""),
        (["bash"], ["start.sh"], ""),
        ([], ["./bash"], ""),
        ([], ["bin/bash"], ""),
        ([], ["/tmp/\n/bash"], ""),
        ([], ["/bin/rbash"], ""),
        ([], ["/" + "x" * 4095 + "/sh"], ""),
    ],
)
def test_a_shell_counts_only_if_the_image_starts_it_interactively(
    entrypoint: list[str], cmd: list[str], meant: str
) -> None:
    assert image_shell(entrypoint, cmd) == meant
