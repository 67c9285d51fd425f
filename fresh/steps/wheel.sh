#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Proves that the wheel is all one needs. Run it as root in a bare Debian root that has apt sources,
# pip's configuration and certificates, but no checkout: `wheel.sh WHEEL`. root installs the wheel
# with pipx, a new ordinary user with `uv tool`; each sets up, builds the images (root, who builds all
# in ./task test, only the one of the demo), and uses the demo and a server of its own as a client
# would. It changes the root that it runs in: throw that away.
set -euo pipefail

readonly USER_NAME=agent PORT=8080
readonly URL="http://127.0.0.1:$PORT"

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'wheel.sh: %s\n' "$*" >&2; exit 1; }

as_root() {
    local wheel="$1" bin
    [[ $EUID == 0 ]] || die "run this as root, in a root that may be thrown away"
    say "root: pipx, by apt"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pipx >/dev/null
    say "root: the wheel, by pipx"
    pipx install "$wheel" >&2
    bin="$HOME/.local/bin"
    IMAGES=(python)
    use "$bin" "$HOME/.local/pipx/venvs" "$HOME/.local/share/pipx/venvs"
    [[ -f /var/lib/waggle/state.db ]] || die "root's data is not in /var/lib/waggle"

    say "the user $USER_NAME, uv, and what only users need of the system"
    pipx install uv >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends uidmap >/dev/null
    useradd --create-home --shell /bin/bash "$USER_NAME"
    install -m 0755 -- "$0" "/home/$USER_NAME/wheel.sh"
    install -m 0644 -- "$wheel" "/home/$USER_NAME/${wheel##*/}"
    install -m 0755 -- "$(readlink -f -- "$bin/uv")" "$(readlink -f -- "$bin/uvx")" /usr/local/bin
    cd -- "/home/$USER_NAME"
    runuser -u "$USER_NAME" -- env HOME="/home/$USER_NAME" USER="$USER_NAME" \
        PATH=/usr/local/bin:/usr/bin:/bin bash wheel.sh --as-user "/home/$USER_NAME/${wheel##*/}"
}

as_user() {
    local wheel="$1" version
    say "$USER_NAME: the wheel, by uv tool"
    export XDG_DATA_HOME="$HOME/own" UV_PYTHON_DOWNLOADS=never
    uv tool install --quiet "$wheel"
    IMAGES=()
    use "$(uv tool dir --bin)" "$(uv tool dir)"
    [[ -d $HOME/own/waggle/cache/images ]] || die "XDG_DATA_HOME is not followed"
    [[ ! -e $HOME/.local/share/waggle ]] || die "there is data beside XDG_DATA_HOME"

    say "$USER_NAME: what server.json says, over stdio"
    version="$(waggle version | cut -d' ' -f2)"
    UV_FIND_LINKS="$HOME" client uvx "waggle-microvm@$version" serve --stdio
}

# Use an installation as its owner would, with IMAGES, or all. After it, `client` is that of this installation.
use() {
    local place word
    export PATH="$1:$PATH"
    shift
    for place in "$@"; do
        if [[ -x $place/waggle-microvm/bin/python ]]; then PYTHON="$place/waggle-microvm/bin/python"; fi
    done
    for word in version --version; do waggle "$word" | grep -qx 'waggle [0-9.]*' || die "waggle $word"; done
    say "$(id -un): setup"
    waggle setup --yes
    say "$(id -un): images"
    waggle image build --missing "${IMAGES[@]}"
    waggle image ls
    waggle doctor
    say "$(id -un): demo"
    waggle demo
    say "$(id -un): a server, and a client of it"
    waggle serve &
    server=$!
    trap 'kill "$server" 2>/dev/null || :' EXIT
    until_ready
    client "$URL/mcp"
    waggle env ls
    kill "$server"
    wait "$server" || die "the server ended with status $?"
    trap - EXIT
}

until_ready() {
    local tries
    for ((tries = 0; tries < 120; tries++)); do
        kill -0 "$server" 2>/dev/null || die "the server has ended"
        if "$PYTHON" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1])' "$URL/readyz" 2>/dev/null; then
            return
        fi
        sleep 0.5
    done
    die "/readyz did not say 200 in a minute"
}

# An MCP client of a URL, or of a command that serves on stdio.
client() {
    "$PYTHON" - "$@" <<'PYTHON'
import asyncio, os, sys
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

async def main(target, *words):
    server = StdioServerParameters(command=target, args=[*words], env={**os.environ})
    async with Client(stdio_client(server) if words else target, read_timeout_seconds=240) as agent:
        made = await agent.call_tool("create_environment", {"runtime": "python"})
        assert not made.is_error, made
        environment = {"environment_id": made.structured_content["environment_id"]}
        ran = await agent.call_tool("execute", {**environment, "code": "print(6 * 7)"})
        assert not ran.is_error and ran.structured_content["stdout"] == "42\n", ran
        ended = await agent.call_tool("destroy_environment", environment)
        assert not ended.is_error, ended
    print("created, executed, destroyed", file=sys.stderr)

asyncio.run(main(*sys.argv[1:]))
PYTHON
}

if [[ ${1-} == --as-user ]]; then as_user "$2"; else as_root "${1:?the path of the wheel}"; fi
say "the wheel does it all"
