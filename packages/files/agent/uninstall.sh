#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Removes what install.sh installed; with --purge also the policy and drop-ins of the service.
set -eu
to=${DESTDIR:-}

if [ -z "$to" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now waggle-agent.service || true
fi
rm -f "$to/usr/local/sbin/waggle-agent" "$to/usr/local/share/man/man8/waggle-agent.8" \
    "$to/etc/udev/rules.d/60-waggle-agent.rules" "$to/etc/systemd/system/waggle-agent.service" \
    "$to/etc/waggle-agent/config.json.new"
rm -rf "$to/usr/local/share/doc/waggle-agent"
if [ "${1:-}" = --purge ]; then
    rm -rf "$to/etc/waggle-agent" "$to/etc/systemd/system/waggle-agent.service.d"
fi
if [ -z "$to" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    udevadm control --reload
fi
