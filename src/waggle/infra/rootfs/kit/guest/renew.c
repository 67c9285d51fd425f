// SPDX-License-Identifier: Apache-2.0
// A copy of a frozen machine becomes another environment: the host sends records (identity.c) over
// a channel that PID 1 holds, and hears one byte, 1 for success, and the time that the guest has now.
#include "channels.h"
#include "waggle.h"

#include <stdint.h>
#include <time.h>

static struct channel channel = {
    .name = "waggle.renewal", .port = RENEWAL_PORT, .listener = -1, .wire = -1};

void watch_renewal(struct pollfd at[2]) {
  open_channel(&channel);
  watch_channel(&channel, true, at);
}

// What follows records that cannot be taken is no record: over vsock the host begins anew.
static bool renew(void) {
  struct __attribute__((packed)) {
    unsigned char good;
    uint64_t now;
  } answer = {.good = install_records(channel.wire, true)};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  answer.now = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  return write_exactly(channel.wire, &answer, sizeof answer) && answer.good;
}

void serve_renewal(const struct pollfd at[2]) {
  if (channel_changes(&channel, at) || !(at[1].revents & POLLIN)) return;
  if (!renew() && channel.listener >= 0) drop_channel(&channel);
}
