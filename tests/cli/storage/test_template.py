# SPDX-License-Identifier: Apache-2.0
"""`waggle template`, and a server with WAGGLE_TEMPLATES=built, which makes no templates."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest
from tests.support.waggle_client import connected, environment, execute
from tests.support.waggle_process import Waggle, command_line, own_cache, running, small

from waggle.cli.storage.template import build, ls, prune, rm
from waggle.domain.errors import InvalidArgument, InvalidRuntime, NotFound, SettingsInvalid
from waggle.infra.store.frozen_files import TemplateStore


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a host that has nothing yet, for commands of this process."""
    monkeypatch.setenv("WAGGLE_IMAGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_commands_without_any_template(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ls(as_json=True)
    assert capsys.readouterr().out == "[]\n"
    ls(as_json=False)
    assert "No templates." in capsys.readouterr().out
    prune("0d")
    assert "0 templates removed" in capsys.readouterr().err
    with pytest.raises(NotFound, match="There is no template 'x'"):
        rm(["x"])
    with pytest.raises(InvalidArgument, match="No template was named"):
        rm([])
    with pytest.raises(InvalidRuntime):
        build(["ruby"])
    assert not nothing.exists()


def test_no_template_is_built_if_the_server_would_not_use_it(
    nothing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAGGLE_TEMPLATES", "off")
    with pytest.raises(SettingsInvalid) as refused:
        build([])
    assert "WAGGLE_TEMPLATES=built or on" in str(refused.value.hint)
    assert not nothing.exists()


@pytest.mark.anyio
@pytest.mark.vm
@pytest.mark.timeout(300)
async def test_a_built_template_is_used_and_no_other_is_made(tmp_path: Path) -> None:
    cache = own_cache(tmp_path / "cache")
    settings = {**small(tmp_path), "image_cache_dir": str(cache), "templates": "built"}
    store = TemplateStore(cache / "templates")
    with running(tmp_path / "server", settings) as server:
        assert await came_of(server) is None
        assert not store.directory.exists()

        built = await anyio.to_thread.run_sync(
            lambda: command_line(
                "template", "build", "shell", data=tmp_path / "data", settings=settings
            )
        )
        if "cannot freeze" in built.stderr:
            pytest.skip("NOT TESTED: this hypervisor freezes no machines")
        assert built.returncode == 0, built.stderr
        (template,) = store.all()
        assert built.stdout == f"{template.key.id}\n"
        assert await came_of(server) == template.key.id


async def came_of(server: Waggle) -> str | None:
    """Return the template from which a new environment's machine came, None for one that booted."""
    async with connected(server) as client, environment(client) as this:
        assert await execute(client, this, "echo works") == "works\n"
        assert len(server.machines()) == 1
    return server.events("environment_created")[-1]["template"]
