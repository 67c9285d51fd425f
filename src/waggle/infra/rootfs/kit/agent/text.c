// SPDX-License-Identifier: Apache-2.0
// Text from files, names and users, of which nobody knows that it is UTF-8.
#include "agent.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPLACEMENT "\xef\xbf\xbd" // U+FFFD
#define CONTINUES(byte) (((byte) & 0xc0) == 0x80)

// The length of the character at the start of DATA, or 0 when that is none (RFC 3629, section 4).
static size_t character(const unsigned char *data, size_t size) {
  unsigned char first = data[0], least = 0x80, most = 0xbf;
  size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (first == 0 || length == 0 || first > 0xf4 || length > size) return 0;
  if (first == 0xe0) least = 0xa0;
  if (first == 0xed) most = 0x9f; // no surrogates
  if (first == 0xf0) least = 0x90;
  if (first == 0xf4) most = 0x8f;
  if (length > 1 && (data[1] < least || data[1] > most)) return 0;
  for (size_t i = 2; i < length; i++)
    if (!CONTINUES(data[i])) return 0;
  return length;
}

json_t *text(const char *data, size_t size, size_t most) {
  if (size > most) size = most;
  char *clean = malloc(size * 3 + 1), *to = clean;
  if (!clean) return NULL;
  for (size_t at = 0; at < size;) {
    size_t length = character((const unsigned char *)data + at, size - at);
    if (length) memcpy(to, data + at, length);
    else memcpy(to, REPLACEMENT, 3);
    to += length ? length : 3, at += length ? length : 1;
  }
  json_t *made = json_stringn_nocheck(clean, (size_t)(to - clean));
  free(clean);
  return made;
}

bool read_text(const char *path, char *to, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  size_t got = 0;
  if (fd < 0) return false;
  while (got < size - 1) {
    ssize_t part = read(fd, to + got, size - 1 - got);
    if (part <= 0) break;
    got += (size_t)part;
  }
  close(fd);
  to[got] = 0;
  return true;
}
