// SPDX-License-Identifier: Apache-2.0
// The record that says which addresses are far.
#include "harness.h"
#include "ranges.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text;
  char *all = split(data, size, &text, 1);
  struct range *ranges = calloc(MAX_RANGES, sizeof *ranges);
  size_t count = read_ranges(text, ranges);
  if (count > MAX_RANGES) abort();
  for (size_t i = 0; i < count; i++)
    if (ranges[i].bits > 32 || ranges[i].address >> 24 == 127) abort();
  free(ranges);
  free(all);
  return 0;
}
