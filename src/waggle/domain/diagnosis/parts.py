# SPDX-License-Identifier: Apache-2.0
"""Rules about parts of the system that an installer or a program wanted to find. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from waggle.domain.diagnosis.clues import last_words
from waggle.domain.diagnosis.evidence import Evidence
from waggle.domain.diagnosis.getting import as_root, has, python_package, system_package
from waggle.domain.diagnosis.libraries import PACKAGE_OF_HEADER, PACKAGE_OF_LIBRARY
from waggle.domain.diagnosis.told import Diagnosis, shown

_LIBRARY: Final = re.compile(
    r"\b(lib[A-Za-z0-9_.+-]{1,60}?\.so(?:\.\d+){0,3}): cannot open shared object file"
    r"|Error loading shared library (lib[A-Za-z0-9_.+-]{1,60}\.so(?:\.\d+){0,3}):"
)
_HEADER: Final = re.compile(r"fatal error: ([A-Za-z0-9_./+-]{1,80}): No such file or directory")


def missing_part(evidence: Evidence) -> Diagnosis | None:
    """A shared library or a C header that is not in the image."""
    text = last_words(evidence)
    if match := _LIBRARY.search(text):
        name = match[1] or match[2]
        package, kind = PACKAGE_OF_LIBRARY.get(name), "shared library"
    elif match := _HEADER.search(text):
        name = match[1]
        package, kind = PACKAGE_OF_HEADER.get(name), "C header"
    else:
        return None
    step = f"Install the package of the distribution that has {shown(name)}."
    if package:
        step = f"The package {package} has it. {system_package(evidence, package)}"
    if name == "libGL.so.1":
        step += " Or use opencv-python-headless in place of opencv-python."
    return Diagnosis("library_not_found", f"The {kind} {shown(name)} is not in this image.", step)


@dataclass(frozen=True, slots=True)
class _Sdist:
    """A package without wheels: how its build fails, what it needs, what there is in its place."""

    fails: re.Pattern[str]
    needs: str
    instead: str


_SDISTS: Final = (
    _Sdist(re.compile(r"pg_config executable not found"), "libpq-dev", "psycopg2-binary"),
    _Sdist(
        re.compile(r"Can not find valid pkg-config name|mysql_config: not found"),
        "default-libmysqlclient-dev pkg-config",
        "pymysql",
    ),
)
_BUILD: Final = re.compile(
    r"Failed building wheel for|Failed to build|subprocess-exited-with-error"
    r"|gyp ERR! (?:build|conf)"
)


def build_failed(evidence: Evidence) -> Diagnosis | None:
    """An installer had to build a package and could not."""
    text = last_words(evidence)
    for each in _SDISTS:
        if each.fails.search(text):
            return Diagnosis(
                "build_failed",
                f"There is no wheel of it, and its build needs {each.needs}.",
                f"{each.instead} serves in its place. {python_package(evidence, each.instead)} "
                f"Or give the build what it needs: {_needed(evidence, each.needs)}.",
            )
    if not _BUILD.search(text):
        return None
    return Diagnosis(
        "build_failed",
        "The installer found no finished build of a package, and building it failed.",
        "The first error above names what is missing; or choose a version that has a wheel or a "
        f"prebuilt binary. Builds need a compiler and headers: "
        f"{_needed(evidence, 'build-essential pkg-config')}.",
    )


def _needed(evidence: Evidence, packages: str) -> str:
    if not has(evidence, "apt-get"):
        return packages
    return as_root(evidence, "apt-get update", f"apt-get install -y gcc python3-dev {packages}")
