# SPDX-License-Identifier: Apache-2.0
"""Parsing the source of an image in local files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.infra.oci.store.select import Form, LocalSource, is_local, parse_source


@pytest.mark.parametrize(
    "text, form, path, name",
    [
        ("/srv/x", Form.LAYOUT, "/srv/x", ""),
        ("/srv/x:v1", Form.LAYOUT, "/srv/x", "v1"),
        ("oci:/srv/x", Form.LAYOUT, "/srv/x", ""),
        ("oci:/srv/x:v1", Form.LAYOUT, "/srv/x", "v1"),
        ("oci:/x:registry.example:5000/a:b", Form.LAYOUT, "/x", "registry.example:5000/a:b"),
        ("oci-archive:/x.tar:v1", Form.OCI_ARCHIVE, "/x.tar", "v1"),
        ("docker-archive:/x.tar:a/b:v1", Form.DOCKER_ARCHIVE, "/x.tar", "a/b:v1"),
        ("docker-archive:/x.tar:@1", Form.DOCKER_ARCHIVE, "/x.tar", "@1"),
    ],
)
def test_sources_are_spelled_as_for_skopeo(text: str, form: Form, path: str, name: str) -> None:
    assert parse_source(text) == LocalSource(form, Path(path), name)
    assert is_local(text)


@pytest.mark.parametrize("text", ["python", "registry.example/a:b", "docker://x.example/a", ""])
def test_a_reference_is_not_a_local_source(text: str) -> None:
    assert parse_source(text) is None
    assert not is_local(text)


@pytest.mark.parametrize("text", ["oci:", "oci:x", "./x", "oci-archive:~/x", "/a\nb", "/a\0b"])
def test_a_source_needs_an_absolute_path(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"absolute path"):
        parse_source(text)
    assert is_local(text), "so no client may say it"


@given(st.text(max_size=20), st.sampled_from(["", *(f"{form}:" for form in Form)]))
def test_a_source_is_parsed_back_from_its_text(text: str, prefix: str) -> None:
    try:
        found = parse_source(f"{prefix}/{text}")
    except InvalidArgument:
        return
    assert found is not None
    assert found.path.is_absolute()
    assert parse_source(str(found)) == found
