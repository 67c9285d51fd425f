// SPDX-License-Identifier: Apache-2.0
// A copy of a frozen machine becomes another environment: the host sends records (identity.c) over
// a port that PID 1 holds, and hears one byte, 1 for success, and the time that the guest has now.
#include "waggle.h"

#include <stdint.h>
#include <time.h>

#define PORT_NAME "waggle.renewal"

static int port = -1;

int renewal_port(void) {
  if (port < 0) port = open_port(PORT_NAME);
  return port;
}

void renew(void) {
  struct __attribute__((packed)) {
    unsigned char good;
    uint64_t now;
  } answer = {.good = install_records(port, true)};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  answer.now = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  write_exactly(port, &answer, sizeof answer);
}
