# SPDX-License-Identifier: Apache-2.0
"""Promises that the repository keeps about itself."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.repository import ROOT, name_of, normal, tracked

from waggle.domain import errors
from waggle.domain.errors import WaggleError

LONGEST_FILE = 300
LONGEST_GUIDE = 100
LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"
SAID_OR_EMPTY = re.compile(r'(?:\s|#.*\n)*(?:r?"""|\Z)')
HOST_NAME = re.compile(r"https?://|(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:org|com|io|net|dev)\b")


@functools.cache
def sources() -> list[Path]:
    return tracked("src/*.py")


def test_sources_name_their_license() -> None:
    named = tracked("*.py", "*.yaml", "*.yml", "*.toml", "*.sh", "*.c", "*.h", "task", ".ci/run")
    without = [
        name_of(path)
        for path in named
        if not any(LICENSE_LINE in line for line in path.read_text("utf-8").splitlines()[:3])
    ]
    assert named
    assert without == []


def test_the_license_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_sources_stay_short() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_modules_have_docstrings() -> None:
    """Empty modules need none."""
    texts = {name_of(path): path.read_text("utf-8") for path in sources()}
    assert [name for name, text in texts.items() if not SAID_OR_EMPTY.match(text)] == []


def test_messages_name_documents_by_their_installed_path() -> None:
    """A wheel has no docs/: `waggle.shipped.document` returns the path. Docstrings may name one."""
    assert [f"{name_of(path)}: {text}" for path in sources() for text in documents(path)] == []


def documents(path: Path) -> list[str]:
    """Return the strings of a module that name a document, except docstrings."""
    text = path.read_text("utf-8")
    nodes = list(ast.walk(ast.parse(text))) if "docs" in text else []
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and "docs/" in node.value
    ]


LEFT_TO_THE_REFUSAL = {
    name
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, WaggleError) and not error.default_hint
}
"""Errors that have no hint unless one is given."""


@pytest.mark.parametrize("layer", ["domain", "service", "mcp"])
def test_every_refusal_has_a_hint(layer: str) -> None:
    silent = [
        f"{name_of(path)}:{call.lineno}"
        for path in tracked(f"src/waggle/{layer}/*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in LEFT_TO_THE_REFUSAL
        and not any(given.arg == "hint" for given in call.keywords)
    ]
    assert silent == []


def test_the_domain_imports_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"waggle"}
    for path in tracked("src/waggle/domain/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    assert {name.name.partition(".")[0] for name in names} <= allowed, path
                case ast.ImportFrom(module=str(module)):
                    assert module.partition(".")[0] in allowed, path
                    assert not module.startswith("waggle.") or module.startswith("waggle.domain")
                case _:
                    pass


def test_no_module_imports_from_a_test_or_a_conftest() -> None:
    """What several tests need lies in a module of its own, or is a fixture."""
    borrowed = [
        f"{name_of(path)}: {module}"
        for path in tracked(
            "tests/*.py", "benchmarks/*.py", "fresh/*.py", "lab/*.py", "packages/*.py"
        )
        for module in imported(ast.parse(path.read_text("utf-8")))
        if module.startswith("tests.") and re.search(r"\.(test_\w+|conftest)\b", module)
    ]
    assert borrowed == []


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of all that a module imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{name.name}" for name in names)
            case _:
                pass


def test_the_guide_for_agents_stays_short() -> None:
    guide = ROOT / "CLAUDE.md"
    assert len(guide.read_text("utf-8").splitlines()) < LONGEST_GUIDE


def test_documents_name_only_tasks_that_exist() -> None:
    tasks = set(re.findall(r"^  ([a-z-]+):$", (ROOT / "Taskfile.yaml").read_text("utf-8"), re.M))
    for path in tracked("*.md"):
        named = set(re.findall(r"(?:^|[\s`])\./task ([a-z][a-z-]*)", path.read_text("utf-8")))
        assert named <= tasks, f"{path}: no such task: {named - tasks}"


def test_links_between_documents_lead_somewhere() -> None:
    for path in tracked("*.md"):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path}: {target}"


class TestPins:
    @pytest.mark.parametrize("path", tracked("requirements/*.txt"), ids=name_of)
    def test_pins_have_hashes_and_name_no_host(self, path: Path) -> None:
        text = path.read_text("utf-8")
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            assert re.match(r"[a-z0-9-]+==\S+ ", line), line
            assert "--hash=sha256:" in line, line
        assert not HOST_NAME.search(text)
        assert "--index" not in text
        assert "--find-links" not in text

    def test_every_direct_dependency_is_pinned(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
        runtime, dev = (pins(ROOT / "requirements" / f"{name}.txt") for name in ("runtime", "dev"))
        assert runtime <= dev, "what is tested is what is shipped"
        names = {normal(text) for text in project["project"]["dependencies"]}
        assert names <= {pin.partition("==")[0] for pin in runtime}
        tools = {normal(text) for text in project["dependency-groups"]["dev"]}
        assert tools <= {pin.partition("==")[0] for pin in dev}


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[a-z0-9-]+==[^\s\\]+", path.read_text("utf-8"), re.M))
