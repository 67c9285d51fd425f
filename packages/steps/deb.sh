# SPDX-License-Identifier: Apache-2.0
# deb.sh STAGE: makes a .deb of a directory with the files and DEBIAN/, and puts it into /mnt/out.
set -eu
stage=$1
cp -a "$stage" /tmp/deb
cd /tmp/deb

# Documents as Debian keeps them. Links to them have the name with .gz already.
find usr/share/man -type f -exec gzip -9n {} +
find usr/share/doc -name 'changelog*' -type f -exec gzip -9n {} +

size=$(du -k -s --apparent-size --exclude=DEBIAN . | cut -f1)
sed -i "s/^Installed-Size:.*/Installed-Size: $size/" DEBIAN/control
find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | tr '\n' '\0' |
    xargs -0 md5sum >DEBIAN/md5sums
# Files of /etc are conffiles and have their sums elsewhere.
sed -i '/  etc\//d' DEBIAN/md5sums
chmod 644 DEBIAN/md5sums DEBIAN/control DEBIAN/conffiles

find . -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p /mnt/out
dpkg-deb --root-owner-group -Zxz -z3 --build . /mnt/out
