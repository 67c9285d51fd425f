# SPDX-License-Identifier: Apache-2.0
"""The part of a guest on this host that is about its network. `LocalGuest` has it.

Two questions to the package managers of the image, each one run in the guest: which registries
they are configured for, which needs no network, and then, with those within reach, where these keep
files. The tools know; no list of ours does. `domain.network.registries` reads the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from waggle.domain.network import Network
from waggle.domain.network.registries import MAX_ANSWER, MAX_REGISTRIES, parse_registries
from waggle.domain.network.rules import Rule
from waggle.domain.programs import Command
from waggle.infra.ssh.run import Shell
from waggle.service.local.blueprint import Proxy

_SECONDS: Final = 10.0
"""For one question. Emulated processors need half of that for npm."""
_BUSYBOX: Final = "/.waggle/bin/busybox"
_BEGIN: Final = """
b() { /.waggle/bin/busybox "$@"; }
have() { command -v "$1" >/dev/null 2>&1; }
ask() { b timeout 9 "$@" </dev/null 2>&1 | b head -c 400000; }
urls() { b grep -oE 'https?://[^[:space:]]+' | b sort -u | b head -n 40 | b head -c 4000; }
export COLUMNS=4000 PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 NO_COLOR=1
export npm_config_cache="${TMPDIR:-/tmp}/.registries-$$" npm_config_loglevel=silent
pip=; have python3 && pip="python3 -m pip"
crate=$npm_config_cache/crate cargo=${CARGO_HOME:-$HOME/.cargo}
b mkdir -p "$crate/src" 2>/dev/null && : >"$crate/src/lib.rs"
printf '[package]\\nname = "ask"\\nversion = "0.0.0"\\nedition = "2018"\\n[dependencies]\\n%s\\n' \\
    'no-such-package-is-wanted-here = "1"' >"$crate/Cargo.toml"
"""
_END: Final = """
wait
b rm -rf "$npm_config_cache"
"""
CONFIGURED: Final = f"""{_BEGIN}
if [ "$pip" ]; then
    ask $pip install --help | b grep -oE '\\(default https?://[^)]*' | urls &
    ask $pip config list | b grep -E 'index-url|find-links' | urls &
fi
have npm && ask npm config ls -l | b grep -E '^[^;]*registry"? *=' | urls &
have go && {{ ask go env GOPROXY | b tr ',|' '  ' | urls
    ask go env GOSUMDB | b sed -nE 's,^([a-z0-9.-]+\\.[a-z]+)([+ ].*)?$,https://\\1/,p' | urls; }} &
have apt-get && ask apt-get indextargets --format '$(SITE)' | urls &
have cargo && {{
    export CARGO_LOG=cargo::sources::registry=debug RUST_BACKTRACE=0
    (cd "$crate" && ask cargo fetch --offline) |
        b sed -nE 's,.*/registry/index/([A-Za-z0-9.-]+)-[0-9a-f]{{16}}.*,https://\\1/,p' | urls
    b grep -hE '^ *index *=' "$cargo/config.toml" "$cargo/config" 2>/dev/null | urls; }} &
{_END}"""
"""Prints the URLs of registries. Cargo only names its default one in its log, by a directory."""
FILES: Final = f"""{_BEGIN}
[ "$pip" ] && ask $pip index versions -vv pip | b grep -oE 'Found link https?://[^/]+' | urls &
have npm && ask npm view npm dist.tarball | urls &
have cargo && {{
    (cd "$crate" && CARGO_NET_RETRY=0 ask cargo fetch >/dev/null)
    b cat "$cargo"/registry/index/*/config.json 2>/dev/null |
        b grep -oE '"dl" *: *"[^"]*' | urls; }} &
{_END}"""
"""Prints URLs of packages' files, of which a registry's own pages tell where they are."""


class NetworkOfGuest:
    """The network of one guest."""

    _proxy: Proxy | None
    _shell: Shell
    _naming_the_cause: Callable[[], AbstractAsyncContextManager[None]]

    async def registries(self, network: Network, ignoring: Collection[str]) -> Sequence[Rule]:
        """Ask for its registries; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            configured = await self._answer(CONFIGURED, ignoring)
            if not configured or self._proxy is None:
                return configured
            self.set_network(network, configured)
            files = await self._answer(FILES, ignoring)
        found = tuple(dict.fromkeys((*configured, *files)))[:MAX_REGISTRIES]
        self.set_network(network, found)
        return found

    def set_network(self, network: Network, registries: Sequence[Rule]) -> int:
        """Judge by another network; see `domain.host.Guest`."""
        return self._proxy.set_network(network, registries) if self._proxy else 0

    async def _answer(self, script: str, ignoring: Collection[str]) -> tuple[Rule, ...]:
        without = [word for name in ignoring for word in ("-u", name)]
        argv = (_BUSYBOX, "env", *without, _BUSYBOX, "sh", "-c", script)
        ran = await self._shell.run(Command(argv, _SECONDS, MAX_ANSWER))
        return parse_registries(ran.stdout.text())
