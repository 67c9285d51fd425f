#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Proves that waggle sets itself up where neither os-release nor apt's sources are Debian's: makes
# the bare trixie root in which it runs look like Ubuntu 24.04, then sets up, builds an image and
# does the whole job once, with no WAGGLE_* variable. The packages that set-up installs come from a
# directory that is laid out like Ubuntu's archive and was filled from Debian's before.
#
# Run as root, with mount and PID namespaces of its own, as: ubuntu.sh --throw-away-root [CHECKOUT]
# It replaces /etc/os-release and all of apt's sources, so never run it in a root that is to be kept.
set -eu
[ "${1:-}" = --throw-away-root ] || { echo "ubuntu.sh: only in a root that is thrown away" >&2; exit 2; }
checkout=${2:-/root/waggle}
archive=/srv/archive/ubuntu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { printf 'ubuntu: %s\n' "$*" >&2; }

say "what README asks for before the first command, and what makes the archive"
apt-get update -qq
apt-get install -y -qq --no-install-recommends git python3 python3-venv ca-certificates apt-utils
cd "$checkout"
./task version

say "an archive like Ubuntu's, with what set-up will want"
names=$(.venv/bin/python -c '
from waggle.infra.host.requirements import missing
print(*[package.apt for package in missing({"serve", "build"})])')
[ -n "$names" ] || { say "nothing is missing here, so nothing would be proven"; exit 1; }
dist=$archive/dists/noble
mkdir -p "$archive/pool" "$dist/main/binary-amd64"
# shellcheck disable=SC2086 # names of packages, one word each
apt-get install -y -qq --no-install-recommends --download-only --reinstall \
    -o "Dir::Cache::archives=$archive/pool" -o APT::Sandbox::User=root \
    debian-archive-keyring $names
(cd "$archive" && apt-ftparchive packages pool >"$dist/main/binary-amd64/Packages")
apt-ftparchive -o APT::FTPArchive::Release::Origin=Ubuntu \
    -o APT::FTPArchive::Release::Codename=noble -o APT::FTPArchive::Release::Components=main \
    -o APT::FTPArchive::Release::Architectures=amd64 release "$dist" >"$archive/Release"
mv "$archive/Release" "$dist/Release"

say "from here on this is Ubuntu, which has Debian's keys only when they are installed"
sed -i '/^Package: apt$/,/^$/s/ debian-archive-keyring,//' /var/lib/dpkg/status
dpkg --purge debian-archive-keyring
rm -rf /etc/os-release /etc/apt/sources.list /etc/apt/sources.list.d /var/lib/apt/lists
mkdir -p /etc/apt/sources.list.d
cat >/etc/os-release <<'END'
PRETTY_NAME="Ubuntu 24.04 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
END
cat >/etc/apt/sources.list.d/ubuntu.sources <<END
Types: deb
URIs: file:$archive file:$archive/
Suites: noble
Components: main
Trusted: yes
END
for name in $(env | sed -n 's/^\(WAGGLE_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
.venv/bin/python -c '
from pathlib import Path
from waggle.infra.shared import debian as archive
assert archive.host_archive(Path("/etc")) is None, "this root still names a Debian archive"'
if command -v mmdebstrap; then say "mmdebstrap is here before set-up"; exit 1; fi

for command in "setup --yes" "image build python" demo; do
    say "waggle $command"
    # shellcheck disable=SC2086 # words of a command
    .venv/bin/waggle $command
done
say "done"
