# SPDX-License-Identifier: Apache-2.0
"""What the agent in C and the protocol's models both say must be the same."""

from __future__ import annotations

import re

from pydantic.fields import FieldInfo

from waggle import __version__
from waggle.infra.guest import protocol
from waggle.infra.guest.protocol import METHODS, ErrorCode, fields
from waggle.infra.rootfs.kit import AGENT_SOURCES

HEADER = (AGENT_SOURCES / "agent.h").read_text()
TABLE = (AGENT_SOURCES / "methods.c").read_text().partition("METHODS[] = {")[2]


def number(name: str) -> int:
    found = re.search(rf"^#define {name} (\d+)", HEADER, re.MULTILINE)
    assert found, name
    return int(found[1])


def test_limits_are_the_same() -> None:
    assert number("MAX_LINE") == protocol.MAX_REQUEST
    assert number("MAX_READ") == fields.MAX_READ
    assert number("MAX_WRITE") == fields.MAX_WRITE
    assert number("MAX_DEPTH") == protocol.MAX_DEPTH
    assert number("MAX_PATH") == fields.MAX_PATH + 1


def test_port_and_versions_are_the_same() -> None:
    assert f'#define PORT_NAME "{protocol.PORT}"' in HEADER
    assert f'#define PROTOCOL "{protocol.VERSION}"' in HEADER
    assert f'#define AGENT_VERSION "{__version__}"' in (AGENT_SOURCES / "main.c").read_text()


def test_error_codes_are_the_same() -> None:
    found = dict(re.findall(r"^  ([A-Z_]+) = (-\d+),$", HEADER, re.MULTILINE))
    assert {name: int(code) for name, code in found.items()} == {
        code.name: code.value for code in ErrorCode
    }


def test_methods_and_their_parameters_are_the_same() -> None:
    starts = [*re.finditer(r"^    \{\"(\w+)\", \w+, (?:HERE|CHILD|PROGRAM)", TABLE, re.MULTILINE)]
    ends = [*(found.start() for found in starts[1:]), len(TABLE)]
    said = {found[1]: TABLE[found.end() : end] for found, end in zip(starts, ends, strict=True)}
    assert list(said) == list(METHODS)
    for name, method in METHODS.items():
        entry = re.sub(r"\bPATH\b", '{"path", ABSOLUTE_PATH, true, 0, 0}', said[name])
        entry = entry.replace("PROCESS}", '{"process", INTEGER, true, 1, 1}}')
        params = {
            param: is_required == "true"
            for param, is_required in re.findall(r"\{\"(\w+)\", \w+, (true|false),", entry)
        }
        assert params == {
            param: is_required(field) for param, field in method.params.model_fields.items()
        }, name


def is_required(field: FieldInfo) -> bool:
    return field.is_required()
