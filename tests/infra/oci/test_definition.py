# SPDX-License-Identifier: Apache-2.0
"""Image definitions: the three that ship, and the mistakes that an author can make."""

from __future__ import annotations

from pathlib import Path

import pytest

from waggle.domain.errors import ImageMissing, InvalidArgument
from waggle.infra.oci.definition import load_definition, parse_definition

IMAGES = Path(__file__).parents[3] / "images"
MINIMAL = 'suite = "trixie"\nvariant = "essential"\nepoch = 1\n'


@pytest.mark.parametrize("name", ["python", "node", "shell"])
def test_the_shipped_definitions_are_valid(name: str) -> None:
    definition = load_definition(IMAGES, name)
    assert definition.name == name
    assert definition.packages
    assert definition.env["PATH"]


def test_a_missing_definition_names_those_that_exist() -> None:
    with pytest.raises(ImageMissing, match=r"node, python, shell"):
        load_definition(IMAGES, "ruby")


@pytest.mark.parametrize("name", ["../python", "", "/etc"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(ImageMissing):
        load_definition(IMAGES, name)


@pytest.mark.parametrize(
    "text,key",
    [
        ("", "suite"),
        (MINIMAL.replace("essential", "huge"), "variant"),
        (MINIMAL.replace("trixie", "tri xie"), "suite"),
        (MINIMAL.replace("= 1", "= -1"), "epoch"),
        (MINIMAL.replace("= 1", "= true"), "epoch"),
        (MINIMAL + 'packages = ["curl --force"]', "packages"),
        (MINIMAL + "packages = [1]", "packages"),
        (MINIMAL + 'packages = "curl"', "packages"),
        (MINIMAL + 'warm_up = ["ls -l"]', "warm_up"),
        (MINIMAL + 'drop = ["etc"]', "drop"),
        (MINIMAL + '[files]\n"/a/../../b" = "x"', "files"),
        (MINIMAL + '[links]\n"relative" = "x"', "links"),
        (MINIMAL + "[env]\nA = 1", "env"),
        (MINIMAL + "wheels = [1]", "wheels"),
        (MINIMAL + '[[wheels]]\nname = "x"\nversion = "1"\nsha256 = ["zz"]', "sha256"),
        (MINIMAL + '[[wheels]]\nname = "-x"\nversion = "1"', "name"),
        (MINIMAL + '[[wheels]]\nname = "x"\nversion = "1"', "sha256 and unpack"),
        (MINIMAL + 'package = ["curl"]', "unknown key 'package'"),
        ("= =", "not TOML"),
    ],
)
def test_a_mistake_is_named(text: str, key: str) -> None:
    with pytest.raises(InvalidArgument, match=key) as caught:
        parse_definition("mine", text)
    assert "images/mine/image.toml" in caught.value.message
