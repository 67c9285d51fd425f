# SPDX-License-Identifier: Apache-2.0
"""The kit's runners (kit/guest/runner.*): code stored elsewhere behaves as if it were in `cwd`.

Uses this host's interpreters; `tests/vm` runs them in a guest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.programs import NODE

from waggle.infra.rootfs.kit import GUEST_SOURCES

SOURCES = {".py": "runner.python", ".js": "runner.node"}


@dataclass(frozen=True)
class Place:
    """A work directory, and a directory for code as the launcher makes it."""

    cwd: Path
    apart: Path

    def run(self, code: str, *words: str, extension: str = ".py") -> tuple[str, str, int]:
        file, runner = self.apart / f"main{extension}", self.apart / f"runner{extension}"
        file.write_text(code)
        (self.apart / "directory").write_text(str(self.cwd))
        shutil.copy(GUEST_SOURCES / SOURCES[extension], runner)
        argv = [sys.executable, runner, file]
        if extension == ".js":
            argv = [NODE, "-r", runner, file]
        ended = subprocess.run(
            [*map(str, argv), *words],
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return ended.stdout, ended.stderr, ended.returncode


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "work", tmp_path / "1a2b3c4d")
    made.cwd.mkdir()
    made.apart.mkdir()
    return made


def test_python_code_appears_to_be_a_file_in_the_work_directory(place: Place) -> None:
    (place.cwd / "own.py").write_text("value = 42")
    code = (
        "from __future__ import annotations\n"
        "import os, own, sys\n"
        "print(own.value, os.listdir('.'), __file__, __name__, sys.argv[1:], sys.path[0])\n"
    )
    printed, _, ended = place.run(code, "a", "b")
    listed = printed.replace("'__pycache__', ", "").replace(", '__pycache__'", "")
    cwd = place.cwd
    assert listed == f"42 ['own.py'] {cwd}/main.py __main__ ['a', 'b'] {cwd}\n"
    assert ended == 0


def test_the_code_gets_another_name_if_the_user_has_a_main_file(place: Place) -> None:
    (place.cwd / "main.py").write_text("value = 'own'")
    printed, _, _ = place.run("import main; print(main.value, __file__)")
    assert printed == f"own {place.cwd}/main-1a2b3c4d.py\n"


def test_tracebacks_show_the_code_and_not_the_runner(place: Place) -> None:
    _, printed, ended = place.run("def f():\n    return 1 / 0\nf()\n")
    assert ended == 1
    assert [line.strip() for line in printed.splitlines() if "File" in line] == [
        f'File "{place.apart}/main.py", line 3, in <module>',
        f'File "{place.apart}/main.py", line 2, in f',
    ]
    assert "return 1 / 0" in printed
    _, printed, ended = place.run("x = (")
    assert (printed.split()[0], printed.splitlines()[-1][:12], ended) == ("File", "SyntaxError:", 1)
    _, printed, ended = place.run("import sys; sys.exit('over')")
    assert (printed, ended) == ("over\n", 1)


def test_inspect_pickle_and_multiprocessing_find_the_code(place: Place) -> None:
    code = (
        "import inspect, multiprocessing, pickle\n"
        "class A: pass\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    print(inspect.getsource(double), type(pickle.loads(pickle.dumps(A()))) is A)\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            print(pool.map(double, [21]))\n"
    )
    printed, errors, _ = place.run(code)
    assert printed == "def double(x): return 2 * x\n True\n[42]\n[42]\n[42]\n", errors


def test_node_code_appears_to_be_a_file_in_the_work_directory(place: Place) -> None:
    (place.cwd / "own.js").write_text("exports.value = 42")
    package = place.cwd / "node_modules" / "pack"
    package.mkdir(parents=True)
    (package / "index.js").write_text("module.exports = 'pack'")
    code = (
        "const files = require('fs').readdirSync('.');\n"
        "console.log(require('./own').value, require('pack'), files.join(), __filename,\n"
        "  process.argv[1] === __filename, require.main === module);\n"
    )
    printed, errors, _ = place.run(code, extension=".js")
    assert printed == f"42 pack node_modules,own.js {place.cwd}/main.js true true\n", errors


def test_node_modules_workers_and_forked_processes_find_the_code(place: Place) -> None:
    package = place.cwd / "node_modules" / "pack"
    package.mkdir(parents=True)
    (package / "index.js").write_text("module.exports = 'pack'")
    code = (
        "import pack from 'pack';\n"
        "import { isMainThread, Worker } from 'worker_threads';\n"
        "import { fileURLToPath } from 'url';\n"
        "console.log(isMainThread, pack, fileURLToPath(import.meta.url), await 1);\n"
        "if (isMainThread) new Worker(fileURLToPath(import.meta.url));\n"
    )
    printed, errors, _ = place.run(code, extension=".js")
    name = f"{place.cwd}/main.js"
    assert printed == f"true pack {name} 1\nfalse pack {name} 1\n", errors
    code = (
        "const { isMainThread, Worker } = require('worker_threads');\n"
        "if (process.argv[2]) process.send(__filename), process.exit();\n"
        "if (!isMainThread) console.log(__filename);\n"
        "else new Worker(__filename).on('exit', () =>\n"
        "  require('child_process').fork(__filename, ['x']).on('message', m => console.log(m)));\n"
    )
    printed, errors, _ = place.run(code, extension=".js")
    assert printed == f"{name}\n{name}\n", errors
    assert [path.name for path in place.cwd.iterdir()] == ["node_modules"]
