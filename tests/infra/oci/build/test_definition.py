# SPDX-License-Identifier: Apache-2.0
"""Image definitions: the shipped ones, and the mistakes that an author can make."""

from __future__ import annotations

from pathlib import Path

import pytest

from waggle.domain.errors import ImageMissing, InvalidArgument
from waggle.infra.oci.build.definition import load_definition, parse_definition

IMAGES = Path(__file__).parents[4] / "images"
MINIMAL = 'suite = "trixie"\nvariant = "essential"\nepoch = 1\n'


@pytest.mark.parametrize("name", ["base", "python", "node", "shell", "data"])
def test_the_shipped_definitions_are_valid(name: str) -> None:
    definition = load_definition(IMAGES, name)
    assert definition.name == name
    assert definition.env["PATH"]
    lowest = definition
    while lowest.base:
        lowest = lowest.base
    assert lowest.name == "base"
    assert {"bash", "git", "gcc", "sudo"} <= set(lowest.packages)


def test_an_image_inherits_the_settings_of_its_base() -> None:
    data = load_definition(IMAGES, "data")
    assert data.base is not None
    assert data.base.name == "python"
    assert (data.suite, data.variant) == (data.base.suite, data.base.variant)
    assert data.env == {**data.base.env, **data.env}
    assert "MPLBACKEND" in data.env.keys() - data.base.env.keys()


def test_requirements_are_pinned_by_digest() -> None:
    lines = load_definition(IMAGES, "data").requirements.splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line]
    assert {"numpy", "pandas", "matplotlib", "scipy"} <= set(names)
    assert sum("--hash=sha256:" in line for line in lines) == len(names)


def test_a_missing_definition_names_those_that_exist() -> None:
    with pytest.raises(ImageMissing, match=r"base, data, node, python, shell"):
        load_definition(IMAGES, "ruby")


@pytest.mark.parametrize("name", ["../python", "", "/etc"])
def test_a_path_is_not_accepted_as_a_name(name: str) -> None:
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
        (MINIMAL + 'base = "../x"', "base"),
        (MINIMAL + 'requirements = "../x.txt"', "requirements"),
        (MINIMAL + 'directories = ["relative"]', "directories"),
        (MINIMAL + '[modes]\n"/a" = "9"', "modes"),
        (MINIMAL + '[[npm]]\nname = "x"\nversion = "1"', "sha256 and unpack"),
        (MINIMAL + 'package = ["curl"]', "unknown key 'package'"),
        ("= =", "not TOML"),
    ],
)
def test_a_mistake_is_named(text: str, key: str) -> None:
    with pytest.raises(InvalidArgument, match=key) as caught:
        parse_definition("mine", text)
    assert "images/mine/image.toml" in caught.value.message


def test_an_image_cannot_be_its_own_base(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "image.toml").write_text('base = "mine"\nepoch = 1\n')
    with pytest.raises(InvalidArgument, match=r"images/mine/image.toml.*base"):
        load_definition(tmp_path, "mine")
