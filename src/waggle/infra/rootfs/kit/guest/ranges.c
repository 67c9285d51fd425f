// SPDX-License-Identifier: Apache-2.0
// The host's record `network`: ranges of IPv4, a word each, as 0.0.0.0/0, -224.0.0.0/3 or ~10.0.0.0/8.
// The longest that has an address decides. Words that are none are passed over.
#include "reach.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define WHITE " \t\n"
#define MAX_WORD 24

static bool read_range(const char *word, size_t size, struct range *range) {
  char copy[MAX_WORD];
  struct in_addr address;
  if (size >= sizeof copy) return false;
  memcpy(copy, word, size);
  copy[size] = 0;
  range->whose = *copy == '-' ? NOT_OURS : *copy == '~' ? SPARE : OURS;
  char *text = copy + (range->whose != OURS), *slash = strchr(text, '/'), *end;
  if (!slash) return false;
  *slash = 0;
  unsigned long bits = strtoul(slash + 1, &end, 10);
  if (end == slash + 1 || *end || bits > 32 || inet_pton(AF_INET, text, &address) != 1) return false;
  range->bits = (uint8_t)bits;
  range->address = bits ? ntohl(address.s_addr) & ~0u << (32 - bits) : 0;
  return (range->address & 0xff000000u) != 0x7f000000u; // what is this machine's stays so
}

size_t read_ranges(const char *text, struct range ranges[MAX_RANGES]) {
  size_t count = 0;
  for (const char *word = text; *word && count < MAX_RANGES;) {
    size_t size = strcspn(word, WHITE);
    count += read_range(word, size, &ranges[count]);
    word += size;
    word += strspn(word, WHITE);
  }
  return count;
}
