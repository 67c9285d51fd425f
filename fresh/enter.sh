# SPDX-License-Identifier: Apache-2.0
# enter.sh ROOT PROGRAM...: runs a program in a bare root and exits as it does; 97 when it left
# processes behind.
# fresh/root.py starts this as the first process of mount and PID namespaces of its own, so that
# nothing that is mounted or started here outlives it. The root is entered by pivot_root: in a
# chroot the kernel refuses user namespaces, in which ordinary users build images.
set -eu
root=$1
shift

mount --bind "$root" "$root"
mount -o remount,bind,exec,suid,dev "$root"
mount -t proc proc "$root/proc" # of this PID namespace
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/.host"
cd "$root"
pivot_root . .host
cd /
umount -l /.host
rmdir /.host

status=0
"$@" || status=$?

left=
for directory in /proc/[0-9]*; do
    pid=${directory#/proc/}
    [ "$pid" = $$ ] && continue
    words=$(tr '\0' ' ' 2>/dev/null <"$directory/cmdline") || continue
    [ -z "$words" ] || left="$left
  $pid $words"
done
if [ -n "$left" ]; then
    echo "fresh: these processes were left running:$left" >&2
    [ "$status" != 0 ] || status=97
fi
exit "$status"
