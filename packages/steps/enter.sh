# SPDX-License-Identifier: Apache-2.0
# enter.sh TREE ro|rw SHARED STEPS PROGRAM...: runs a program in a Debian tree and ends as it does.
# packages/tree.py starts this in mount and PID namespaces of its own, which end with it. The tree is
# read-only unless it is a copy (rw), so that it can be kept; SHARED is /mnt, and the scripts in STEPS
# are in /srv.
set -eu
tree=$1 mode=$2 shared=$3 steps=$4
shift 4

mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc" # of this PID namespace
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$tree/var/tmp"
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mount --bind "$shared" "$tree/mnt"
mount --bind "$steps" "$tree/srv"
mount -o remount,bind,ro "$tree/srv"
mount -o "remount,bind,$mode" "$tree"
exec chroot "$tree" env --chdir=/mnt "$@"
