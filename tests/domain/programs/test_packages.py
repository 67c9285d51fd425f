# SPDX-License-Identifier: Apache-2.0
"""The package names read from the forms in which models write them."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.packages import MAX_TEXT, Installer, Wanted, read_packages

PIP, NPM, SYSTEM = Installer.PIP, Installer.NPM, Installer.SYSTEM


@pytest.mark.parametrize(
    "text, names",
    [
        (" numpy\tpandas \n scipy ", ["numpy", "pandas", "scipy"]),
        ("numpy, pandas,scipy", ["numpy", "pandas", "scipy"]),
        ("numpy\npandas==2.*\n", ["numpy", "pandas==2.*"]),
        ("numpy\r\npandas", ["numpy", "pandas"]),
        ("- numpy\n- pandas>=2\n", ["numpy", "pandas>=2"]),
        ("1. numpy\n2. pandas", ["numpy", "pandas"]),
        ("```\nnumpy\npandas\n```", ["numpy", "pandas"]),
        ("numpy >= 2", ["numpy>=2"]),
        ("numpy >= 2, < 3, pandas", ["numpy>=2,<3", "pandas"]),
        ("numpy>=1,<2 pandas", ["numpy>=1,<2", "pandas"]),
        ("uvicorn[standard, extra-2] x", ["uvicorn[standard,extra-2]", "x"]),
        ("\"numpy>=2\" 'pandas' `scipy`", ["numpy>=2", "pandas", "scipy"]),
        ('["numpy", "uvicorn[standard]"]', ["numpy", "uvicorn[standard]"]),
        ("['numpy', 'pandas']", ["numpy", "pandas"]),
        ("numpy # for arrays\n# all\npandas", ["numpy", "pandas"]),
        ("react@^18 @types/node@20", ["react@^18", "@types/node@20"]),
        ("install numpy", ["numpy"]),
        ("install", ["install"]),
        ("pip setuptools wheel", ["pip", "setuptools", "wheel"]),
        ("", []),
        (" \n", []),
        ([], []),
        (["numpy pandas", "scipy"], ["numpy", "pandas", "scipy"]),
        (["numpy >= 2"], ["numpy>=2"]),
        (["a", "", " b "], ["a", "b"]),
    ],
)
def test_lists_of_names_are_read(text: str | Sequence[str], names: list[str]) -> None:
    assert read_packages(text) == Wanted(tuple(names))


@pytest.mark.parametrize(
    "text, installer, names",
    [
        ("pip install tabulate", PIP, ["tabulate"]),
        ("```bash\npip install tabulate\n```", PIP, ["tabulate"]),
        ("pip3 install -q tabulate rich", PIP, ["tabulate", "rich"]),
        ("python3 -m pip install --user 'numpy>=2'", PIP, ["numpy>=2"]),
        ("uv pip install a b", PIP, ["a", "b"]),
        ("!pip install a", PIP, ["a"]),
        ("%pip install a, b", PIP, ["a", "b"]),
        ("$ pip install a \\\n  b", PIP, ["a", "b"]),
        ("pip install a\npip install b", PIP, ["a", "b"]),
        ("pip install a && pip install b", PIP, ["a", "b"]),
        ("sudo pip install a", PIP, ["a"]),
        ("npm i left-pad", NPM, ["left-pad"]),
        ("npm install --save-dev @types/node typescript", NPM, ["@types/node", "typescript"]),
        ("npm install -g pm2", NPM, ["pm2"]),
        ("yarn add react", NPM, ["react"]),
        ("pnpm add -D vite", NPM, ["vite"]),
        ("apt install -y jq", SYSTEM, ["jq"]),
        ("sudo apt-get install -y --no-install-recommends g++", SYSTEM, ["g++"]),
        ("apt-get -y install jq", SYSTEM, ["jq"]),
        ("apt-get update && apt-get install -y jq curl", SYSTEM, ["jq", "curl"]),
        ("apt-get update; apt-get install jq", SYSTEM, ["jq"]),
        ("DEBIAN_FRONTEND=noninteractive apt-get install jq", SYSTEM, ["jq"]),
        ("apk add --no-cache jq", SYSTEM, ["jq"]),
        (["pip", "install", "tabulate"], PIP, ["tabulate"]),
        (["npm", "i", "-D", "x"], NPM, ["x"]),
        (["pip install a", "pip install b"], PIP, ["a", "b"]),
        ('["pip install a"]', PIP, ["a"]),
    ],
)
def test_an_install_command_gives_its_installer_and_names(
    text: str | Sequence[str], installer: Installer, names: list[str]
) -> None:
    assert read_packages(text) == Wanted(tuple(names), installer)


def test_the_upgrade_option_of_pip_is_kept() -> None:
    assert read_packages("pip install -U pandas").upgrade
    assert read_packages("pip install --upgrade pandas").names == ("pandas",)
    assert not read_packages("npm i -D x").upgrade


@pytest.mark.parametrize(
    "text, step",
    [
        ("pip install -r requirements.txt", 'code "pip install -r requirements.txt"'),
        ("pip install -e .", 'code "pip install -e ."'),
        ("pip install --index-url https://x y", 'code "pip install --index-url https://x y"'),
        ("npm install", 'code "npm install"'),
        ("npm ci", 'code "npm ci"'),
        ("npm install --legacy-peer-deps x", 'code "npm install --legacy-peer-deps x"'),
        ("apt-get install --reinstall jq", 'user "root", code "apt-get install --reinstall jq"'),
        ("pip install a && python main.py", 'code "pip install a && python main.py"'),
        ("apt install jq && pip install x", 'user "root", code "apt install jq && pip install x"'),
        ("a && rm -rf /", 'code "a && rm -rf /"'),
        ("pip uninstall x", 'code "pip uninstall x"'),
        ("pip list", 'code "pip list"'),
        ("conda install numpy", "names only"),
        ("poetry add x", "names only"),
        (".venv/bin/pip install x", 'code ".venv/bin/pip install x"'),
        ("pip install x\nnumpy", "names only"),
        ("x" * (MAX_TEXT + 1), "several calls"),
    ],
)
def test_a_command_with_more_than_names_is_refused_with_the_next_step(text: str, step: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_packages(text)
    assert step in refused.value.hint
    assert len(refused.value.message) < 200


def test_a_refusal_contains_no_control_characters() -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_packages("pip install \x1b31m -r x")
    assert "\x1b" not in str(refused.value)


_WORDS = st.sampled_from(
    [
        "pip",
        "install",
        "npm",
        "i",
        "add",
        "apt-get",
        "-y",
        "sudo",
        "&&",
        "numpy",
        "left-pad",
        ",",
        "\n",
        ";",
    ]
)


@given(st.lists(_WORDS, max_size=8))
@example(["install", ";", "pip", "pip"])
def test_a_command_and_its_program_are_never_installed(words: list[str]) -> None:
    """In any mixture of words, `pip install x` never asks for the packages `pip` and `install`."""
    try:
        wanted = read_packages(" ".join(words))
    except InvalidArgument:
        return
    assert not {"-y", "&&"} & set(wanted.names)
    if "install" in wanted.names and len(words) > 1:
        assert set(words) & {",", "\n"} or words.count("install") > 1 or wanted.installer


@given(st.text(max_size=200))
def test_any_text_is_split_into_words_or_refused(text: str) -> None:
    try:
        wanted = read_packages(text)
    except InvalidArgument:
        return
    assert all(name and not set(name) & set(" \n") for name in wanted.names)


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{2,8}z(==[0-9.]{1,4})?", fullmatch=True), min_size=1))
def test_plain_names_are_not_changed(names: list[str]) -> None:
    for text in (" ".join(names), "\n".join(names), ", ".join(names), names):
        assert read_packages(text) == Wanted(tuple(names))
    assert read_packages("pip install " + " ".join(names)).names == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy",
        "from bs4 import x",
        "numpy and pandas",
        "numpy 1.26",
        "numpy (>=2)",
        "a v1.2",
    ],
)
def test_a_sentence_or_a_program_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="more than names") as refused:
        read_packages(text)
    assert "pandas==2.*" in refused.value.hint


@pytest.mark.parametrize("unit", ["a,", "[a", '"', "a>", "; ", "- ", "\n", " pip install", "! "])
def test_parsing_takes_linear_time(unit: str) -> None:
    """A text of the maximum length would not end in a parser that takes quadratic time."""
    try:
        read_packages(unit * (MAX_TEXT // len(unit)))
    except InvalidArgument:
        return
