# SPDX-License-Identifier: Apache-2.0
"""A server of an ordinary user, with its own cache that the user filled."""

from __future__ import annotations

import os
import sys

import pytest
from tests.support.images import busybox_layer, file, write_layout
from tests.support.ordinary import USER, as_user, needs_two_users, owned, place
from tests.support.waggle_client import connected, environment, execute
from tests.support.waggle_process import environ, own_cache, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

NAME = "registry.example/theirs:v1"


async def test_an_ordinary_user_loads_an_image_and_boots_it() -> None:
    needs_two_users()
    with place() as here:
        theirs = owned(here / "theirs")
        layer = [*busybox_layer(), file("secret", b"s", 0o600), file("own", b"o", uid=1234)]
        write_layout(here / "made", [layer], name=NAME)
        cache = own_cache(theirs / "cache")
        os.chown(cache, USER, USER)
        settings = {**small(theirs), "image_cache_dir": str(cache), "image_shell": NAME}
        words = [sys.executable, "-m", "waggle", "image", "load", f"oci:{here}/made"]
        loaded = as_user(*words, env=environ(theirs / "data", settings))
        assert loaded.returncode == 0, loaded.stderr
        with running(owned(theirs / "server"), settings, user=USER) as server:
            async with connected(server) as client, environment(client) as this:
                assert await execute(client, this, "stat -c %u:%a /secret /own; id -un") == (
                    "0:600\n1234:644\nsandbox\n"
                )
