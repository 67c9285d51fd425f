# SPDX-License-Identifier: Apache-2.0
# rpm.sh STAGE SPEC PACKAGER: makes an .rpm of a directory with the files, and puts it into /mnt/out.
set -eu
stage=$1 spec=$2 packager=$3
cp -a "$stage" /tmp/stage
find /tmp/stage/usr/share/man -type f -exec gzip -9n {} +
find /tmp/stage -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p /mnt/out
# Debian's rpm has neither a database nor what other distributions do after %install.
rpmbuild -bb --quiet --target x86_64-linux \
    --define "_topdir /tmp/rpm" --define "_rpmdir /mnt/out" --define "_dbpath /tmp/rpmdb" \
    --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "stage /tmp/stage" --define "_buildhost waggle" \
    --define "use_source_date_epoch_as_buildtime 1" \
    --define "source_date_epoch_from_changelog 0" \
    --define "clamp_mtime_to_source_date_epoch 1" --define "build_mtime_policy clamp_to_source_date_epoch" \
    --define "_build_id_links none" --define "debug_package %{nil}" --define "__os_install_post %{nil}" \
    --define "packager $packager" --define "_binary_payload w9.xzdio" "$spec"
