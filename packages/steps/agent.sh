# SPDX-License-Identifier: Apache-2.0
# agent.sh SOURCES PROGRAM: compiles the guest agent, without the host's paths or libraries.
set -eu
sources=$1 program=$2
# jansson is built for the GNU C library: its headers come after musl's.
sh "$sources/build.sh" "$program" musl-gcc -static-pie -fPIE -Os -s -Wl,-z,relro,-z,now \
    -fstack-protector-strong -ffile-prefix-map="$sources=agent" \
    -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu -L/usr/lib/x86_64-linux-gnu
