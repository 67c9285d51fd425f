#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs waggle-agent from this archive below /usr/local; see README. May be run again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${DESTDIR:-}
umask 022

put() { # put MODE FILE TARGET
    mkdir -p "$to$(dirname "$3")"
    cp "$here/$2" "$to$3.new-file"
    chmod "$1" "$to$3.new-file"
    mv -f "$to$3.new-file" "$to$3"
}

put 755 waggle-agent /usr/local/sbin/waggle-agent
put 644 waggle-agent.8 /usr/local/share/man/man8/waggle-agent.8
put 644 60-waggle-agent.rules /etc/udev/rules.d/60-waggle-agent.rules
put 644 waggle-agent.service /etc/systemd/system/waggle-agent.service
for example in exec.conf power.conf files.conf; do
    put 644 "examples/$example" "/usr/local/share/doc/waggle-agent/examples/$example"
done
config=/etc/waggle-agent/config.json
if [ ! -e "$to$config" ]; then
    put 644 config.json "$config"
elif ! cmp -s "$here/config.json" "$to$config"; then
    put 644 config.json "$config.new"
    echo "kept $config; the new default is $config.new"
fi

[ -z "$to" ] || exit 0
/usr/local/sbin/waggle-agent --check
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    udevadm control --reload
    udevadm trigger --subsystem-match=virtio-ports --action=change || true
    udevadm settle --timeout=10 || true
    systemctl enable waggle-agent.service
    if [ -e /dev/virtio-ports/org.waggle.agent.0 ]; then
        systemctl restart waggle-agent.service
    else
        echo "this machine has no port org.waggle.agent.0 yet; the agent starts when it has"
    fi
else
    echo "there is no systemd here: have your init run /usr/local/sbin/waggle-agent"
fi
