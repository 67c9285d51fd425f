#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the root of a tree of Debian packages: compiles the guest's programs and gathers them,
# with the packages' programs and the libraries that these need, in /kit.
set -euo pipefail
/usr/bin/busybox mkdir -p /tools /tmp
/usr/bin/busybox --install -s /tools
export PATH=/tools:/usr/bin
sources=/waggle-guest
flags="-static -Os -s -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE -ffile-prefix-map=$sources=."
flags="$flags -ffile-prefix-map=/waggle-agent=agent"

mkdir -p /kit && cd /kit
mkdir -p bin lib lib64 etc proc sys dev run cgroup image scratch merged modules root runners tmp
ln -s . usr
ln -s bin sbin

# Unpacked packages lack the plain names that their set-up would have made.
for tool in as ld; do ln -s "/usr/bin/x86_64-linux-gnu-$tool" "/tools/$tool"; done
cc() { x86_64-linux-gnu-gcc -B/tools/ -specs=/usr/lib/x86_64-linux-musl/musl-gcc.specs $flags "$@"; }
cd $sources
cc -o /kit/init init.c mounts.c cgroups.c network.c doors.c devices.c root.c modules.c identity.c \
  hosts.c account.c users.c home.c agent.c ports.c renew.c server.c supervise.c ending.c reaching.c \
  console.c kernel.c vsock.c clock.c common.c
cc -o /kit/bin/session session.c run.c tree.c streams.c left.c why.c program.c frame.c code.c \
  image.c clock.c common.c job.c jobs.c spool.c displays.c clients.c start.c shim.c input.c \
  follow.c call.c cell.c
cc -o /kit/bin/files files.c walk.c search.c content.c pack.c unpack.c watch.c batch.c clock.c common.c
cc -o /kit/bin/reach reach.c relay.c pump.c proxy.c name_server.c questions.c dns.c names.c \
  asking.c ranges.c ways.c steer.c bpf.c packets.c trust.c clock.c common.c
sh /waggle-agent/build.sh /kit/bin/waggle-agent x86_64-linux-gnu-gcc -B/tools/ \
  -specs=/usr/lib/x86_64-linux-musl/musl-gcc.specs $flags -idirafter /usr/include \
  -idirafter /usr/include/x86_64-linux-gnu -L/usr/lib/x86_64-linux-gnu
preload="-shared -nostdlib -fPIC -Os -s -Wall -Wextra -Werror -fno-builtin"
x86_64-linux-gnu-gcc -B/tools/ $preload -o /kit/lib/preload.so preload.c
x86_64-linux-gnu-gcc -B/tools/ $preload -o /kit/lib/replace.so replace.c
mkdir /kit/runners/__pycache__
cp runner.python /kit/runners/runner.py
cp runner.node /kit/runners/runner.js
for part in context context_cell context_interrupts context_streams; do
  cp "$part.node" "/kit/runners/$part.js"
done
cp context.shell /kit/runners/context.sh
cp context.python /kit/runners/context.py
for name in axes boxes cells chart display figures hooks ipython libraries loop record request \
  rich showing streams ticks; do
  cp $name.python /kit/runners/waggle_$name.py
done
cp notebook.py /kit/runners/waggle_notebook.py
cp storage.conf /kit/etc/
cp agent.json /kit/etc/
cd /kit

cp /usr/bin/busybox /usr/sbin/dropbear /usr/lib/openssh/sftp-server bin/
for program in bin/dropbear bin/sftp-server; do
  /lib64/ld-linux-x86-64.so.2 --list $program
done | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | sort -u | while read -r library; do
  cp -L "$library" lib/
done
cp -L /lib64/ld-linux-x86-64.so.2 lib64/
ln -s ../lib lib/x86_64-linux-gnu

ln -s busybox bin/sh
ln -s busybox bin/modprobe
echo 'root:x:0:0::/root:/bin/session' > etc/passwd
echo 'root:x:0:' > etc/group
echo '/bin/session' > etc/shells
echo 'passwd: files' > etc/nsswitch.conf
