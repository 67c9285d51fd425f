// SPDX-License-Identifier: Apache-2.0
// How long the machine has run. Nothing else reads that clock.
#include "waggle.h"

long long nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

long long milliseconds(void) { return nanoseconds() / 1000000; }

time_t seconds(void) { return nanoseconds() / 1000000000; }
