# SPDX-License-Identifier: Apache-2.0
"""The part of a guest on this host that is about its network. `LocalGuest` has it.

Two questions to the package managers of the image, each one run in the guest: which registries
they are configured for, which needs no network, and then, with those within reach, where these keep
files. The tools know; no list of ours does. `domain.network.registries` reads the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from waggle.domain.network import Network
from waggle.domain.network.registries import (
    MAX_ANSWER,
    MAX_REGISTRIES,
    Registries,
    parse_registries,
)
from waggle.domain.network.rules import Rule
from waggle.domain.network.use import NetworkUse
from waggle.domain.programs import Command
from waggle.infra.ssh.run import Shell
from waggle.service.local.blueprint import StartedMachine
from waggle.service.local.proxy import Proxy

_SECONDS: Final = 45.0
"""For one question. An emulated processor that others use, too, needs half of that for npm."""
_BUSYBOX: Final = "/.waggle/bin/busybox"
_COMPLETE: Final = "complete"
_BEGIN: Final = """
b() { /.waggle/bin/busybox "$@"; }
have() { command -v "$1" >/dev/null 2>&1; }
late() { b mkdir -p "$own/late"; }
ask() { b timeout 40 "$@" </dev/null 2>&1 || { [ $? -ne 143 ] || late; }; }
urls() { b head -c 200000 | b grep -oE 'https?://[^[:space:]]+' | b sort -u | b head -n 30 |
    b sed "s,^,$1 ," | b head -c 4000; }
export COLUMNS=4000 PIP_NO_INPUT=1 NO_COLOR=1 own="${TMPDIR:-/tmp}/.registries-$$"
export cargo="${CARGO_HOME:-$HOME/.cargo}" npm_config_cache="$own" npm_config_loglevel=silent
crate="$own/crate"
b mkdir -p "$crate/src" 2>/dev/null && : >"$crate/src/lib.rs"
printf '[package]\\nname = "ask"\\nversion = "0.0.0"\\nedition = "2018"\\n[dependencies]\\n%s\\n' \\
    'no-such-package-is-wanted-here = "1"' >"$crate/Cargo.toml"
"""
_END: Final = f"""
wait
[ -e "$own/late" ] || echo {_COMPLETE}
b rm -rf "$own"
"""
CONFIGURED: Final = f"""{_BEGIN}
pip='import pip; pip.main(["config", "list"]); pip.main(["list", "--help"])'
have python3 && ask python3 -c "$pip" |
    b grep -oE '\\(default https?://[^)]*|.*(index-url|find-links)=.*' | urls pip &
have npm && ask npm config ls -l | b grep -E '^[^;]*registry"? *=' | urls npm &
have go && {{ ask go env GOPROXY | b tr ',|' '  ' | urls go
    ask go env GOSUMDB | b sed -nE -e 's,^[^ ]+ +(https?://.*),\\1,p' -e t \\
        -e 's,^([a-z0-9.-]+\\.[a-z]+)([+ ].*)?$,https://\\1/,p' | urls go
}} &
have apt-get && ask apt-get update --print-uris | b grep -oE 'https?://[^/]+' | urls apt &
have cargo && {{
    export CARGO_LOG=cargo::sources::registry=debug RUST_BACKTRACE=0
    (cd "$crate" && ask cargo fetch --offline) |
        b sed -nE 's,.*/registry/index/([a-z0-9.-]+)-[0-9a-f]{{16}}.*,https://\\1/,p' | urls cargo
    b grep -hE '^ *index *=' "$cargo/config.toml" "$cargo/config" 2>/dev/null | urls cargo
}} &
{_END}"""
"""Prints the tools and the URLs of their registries. Cargo names its default one in its log only,
by a directory."""
FILES: Final = f"""{_BEGIN}
page='
import re, sys, urllib.request as web
asked = web.Request(sys.argv[1].rstrip("/") + "/pip/", headers={{"Accept": "text/html"}})
found = web.urlopen(asked, timeout=15)
text = found.read(1 << 21).decode("latin-1")
files = re.findall("href=.(https?://[^/<> ]+)/[^<> ]*[.](?:whl|tar.gz|zip)", text)
print(found.url, *sorted(set(files))[:20])'
for index in "$@"; do
    have python3 && {{ b timeout 40 python3 -c "$page" "$index" 2>/dev/null || late; }} | urls pip &
done
have cargo && {{
    (cd "$crate" && CARGO_NET_RETRY=0 ask cargo fetch >/dev/null)
    b cat "$cargo"/registry/index/*/config.json 2>/dev/null | b grep -oE '"dl" *: *"[^"]*' |
        urls cargo
}} &
{_END}"""
"""Prints the URLs of packages' files. Arguments: pip's indexes, whose pages (PEP 503) name them."""
_INDEX: Final = re.compile(r"""^pip \S*?(https?://[^\s'"\\]{1,300})""", re.MULTILINE)
_MAX_INDEXES: Final = 4


class NetworkOfGuest:
    """The network of one guest."""

    _proxy: Proxy | None
    _shell: Shell
    started: StartedMachine
    _naming_the_cause: Callable[[], AbstractAsyncContextManager[None]]

    async def registries(self, network: Network, ignoring: Collection[str]) -> Registries:
        """Ask for its registries; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            answer = await self._answer(CONFIGURED, ignoring)
            rules = parse_registries(answer)
            if not rules or self._proxy is None:
                return Registries(rules, is_complete=False)
            self.set_network(network, rules)
            indexes = _INDEX.findall(answer)[:_MAX_INDEXES]
            files = await self._answer(FILES, ignoring, indexes)
        found = tuple(dict.fromkeys((*rules, *parse_registries(files))))[:MAX_REGISTRIES]
        self.set_network(network, found)
        is_complete = all(text.endswith(f"{_COMPLETE}\n") for text in (answer, files))
        return Registries(found, is_complete)

    def set_network(self, network: Network, registries: Sequence[Rule]) -> int:
        """Judge by another network; see `domain.host.Guest`."""
        return self._proxy.set_network(network, registries) if self._proxy else 0

    def remember_network(self, use: NetworkUse | None) -> None:
        """Begin with what it made of its network in the machine before this one."""
        if self._proxy is not None and use is not None:
            self._proxy.remember(use)

    def network_use(self) -> NetworkUse | None:
        """Return what it has made of its network; see `domain.host.Guest`."""
        return None if self._proxy is None else self._proxy.network_use()

    async def _answer(
        self, script: str, ignoring: Collection[str], arguments: Sequence[str] = ()
    ) -> str:
        image = self.started.blueprint.parts.image.variables
        restored = [f"{name}={image[name]}" for name in ignoring if name in image]
        without = [word for name in ignoring if name not in image for word in ("-u", name)]
        shell = (_BUSYBOX, "sh", "-c", script, "registries", *arguments)
        command = Command((_BUSYBOX, "env", *without, *restored, *shell), _SECONDS, MAX_ANSWER)
        return (await self._shell.run(command)).stdout.text()
