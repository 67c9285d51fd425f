# SPDX-License-Identifier: Apache-2.0
# lint.sh FILE...: examines packages in /mnt/out; the first complaint ends it.
set -eu
cd /mnt/out
for file in "$@"; do
    case "$file" in
    *.deb) lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$file" ;;
    *.rpm) rpmlint --config /srv/rpmlint.toml "$file" ;;
    esac
done
