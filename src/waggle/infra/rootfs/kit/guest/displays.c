// SPDX-License-Identifier: Apache-2.0
// Displays come as records of u32 size and bytes. Each is stored with what stdout and stderr had
// printed before it: the program has written that before, so it is read first (streams.c), and what
// displays things waits until the record was read.
#include "job.h"

#include <arpa/inet.h>
#include <string.h>

#define MAX_DISPLAY (8u << 20) // bytes of one that the host reads; of a larger one it gets an empty one

void feed_displays(const struct job_state *state, const char *data, size_t size) {
  static unsigned char head[4];
  static size_t got, left;
  static bool is_too_large;
  while (size > 0) {
    if (left > 0) {
      size_t part = size < left ? size : left;
      if (!is_too_large) feed_spool(DISPLAYS, data, part);
      data += part, size -= part, left -= part;
      continue;
    }
    head[got++] = (unsigned char)*data++, size--;
    if (got < sizeof head) continue;
    struct __attribute__((packed)) {
      uint32_t size, at[4];
    } stamp = {0};
    uint64_t at[] = {state->spools[STDOUT].total, state->spools[STDERR].total};
    memcpy(&stamp.size, head, sizeof head);
    got = 0, left = ntohl(stamp.size);
    is_too_large = left > MAX_DISPLAY;
    if (is_too_large) stamp.size = 0;
    for (int i = 0; i < 2; i++) {
      stamp.at[2 * i] = htonl((uint32_t)(at[i] >> 32));
      stamp.at[2 * i + 1] = htonl((uint32_t)at[i]);
    }
    feed_spool(DISPLAYS, (char *)&stamp, sizeof stamp);
  }
}
