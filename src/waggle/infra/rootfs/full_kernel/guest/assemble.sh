#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the root of a tree of Debian packages and gathers in /made: the kernel, the first process,
# the modules that it inserts, plain and numbered in their order, and those that the guest loads when
# it needs them. The arguments are the names of the former.
set -euo pipefail
/usr/bin/busybox mkdir -p /tools
/usr/bin/busybox --install -s /tools
export PATH=/tools:/usr/bin
release=$(ls /usr/lib/modules)
[ -d "/usr/lib/modules/$release" ] # the one
all=/usr/lib/modules/$release/kernel
later=/made/tree/lib/modules/$release
mkdir -p /made/boot "$later/kernel"
cp "/boot/vmlinuz-$release" /made/vmlinuz

for tool in as ld; do ln -s "/usr/bin/x86_64-linux-gnu-$tool" "/tools/$tool"; done
x86_64-linux-gnu-gcc -B/tools/ -specs=/usr/lib/x86_64-linux-musl/musl-gcc.specs -static -Os -s \
  -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE -ffile-prefix-map=/waggle-kernel=. \
  -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu \
  -o /made/init /waggle-kernel/init.c

/usr/sbin/depmod "$release"
/usr/sbin/modprobe --all --show-depends --set-version="$release" "$@" |
  sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' > /made/order
number=100
while read -r module; do
  number=$((number + 1))
  unxz -c "$module" > "/made/boot/$number-$(basename "$module" .xz)"
done < /made/order

# What containers, file systems in files and tunnels need. The rest is for hosts and their devices.
cd "$all"
cp -r --parents drivers/block drivers/md drivers/net net fs crypto lib arch/x86/crypto \
  "$later/kernel"
cd "$later/kernel"
rm -rf drivers/block/xen-blkback drivers/net/ethernet drivers/net/hyperv drivers/net/mdio \
  drivers/net/phy drivers/net/vmxnet3 drivers/net/wwan drivers/net/xen-netback
(cd net && rm -rf 9p bluetooth can ceph dccp mac802154 rds smc sunrpc tipc wireless)
(cd fs && rm -rf 9p afs bcachefs ceph coda dlm gfs2 jffs2 jfs lockd nfs nfs_common nfsd ntfs3 ocfs2 \
  orangefs reiserfs smb ubifs)
cp "/usr/lib/modules/$release/modules.builtin" "/usr/lib/modules/$release/modules.order" \
  "/usr/lib/modules/$release/modules.builtin.modinfo" "$later"
/usr/sbin/depmod -b /made/tree "$release"
grep -q '/nf_tables.ko.xz: .*/nfnetlink.ko' "$later/modules.dep" # they could be read
rm "$later/modules.builtin.modinfo" "$later/modules.symbols" "$later/modules.symbols.bin"
mv "$later" /made/modules
rm -r /made/tree /made/order
du -sh /made/modules /made/boot
