# SPDX-License-Identifier: Apache-2.0
# archive.sh STAGE NAME: packs a directory as NAME.tar.gz, with NAME as its first component.
set -eu
stage=$1 name=$2
mkdir -p /mnt/out
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
    --format=gnu --transform="s,^\.,$name," --directory="$stage" . |
    gzip -9n >"/mnt/out/$name.tar.gz"
