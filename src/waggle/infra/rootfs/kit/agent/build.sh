#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles the agent: build.sh OUTPUT COMPILER [FLAG...]. jansson must be where the compiler finds it.
set -eu
sources=$(dirname "$0")
output=$1
shift
"$@" -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$output" "$sources"/*.c -ljansson
