# SPDX-License-Identifier: Apache-2.0
"""Guest ports that clients may name, and the URL of an exposed port."""

import pytest

from waggle.domain.errors import InvalidArgument
from waggle.domain.exposure import ExposedPort, parse_guest_port


@pytest.mark.parametrize("port", [1, 80, 8000, 65_535])
def test_a_valid_port_is_accepted(port: int) -> None:
    assert parse_guest_port(port) == port


@pytest.mark.parametrize("port", [-1, 0, 65_536, 1 << 70])
def test_any_other_port_is_refused(port: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 65535"):
        parse_guest_port(port)


def test_the_url_is_on_loopback_only() -> None:
    assert ExposedPort(8000, 41_234).url == "http://127.0.0.1:41234/"
