// SPDX-License-Identifier: Apache-2.0
// What the harnesses share. Each includes one source of the kit, so that its static functions can
// be called, too.
#ifndef HARNESS_H
#define HARNESS_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// COUNT texts with NUL between them, the missing ones empty, in one allocation to free: exactly as
// long as they are, so that a read past the end is seen.
static inline char *split(const uint8_t *data, size_t size, char **texts, int count) {
  char *all = malloc(size + 1), *at = all;
  memcpy(all, data, size);
  all[size] = 0;
  for (int i = 0; i < count; i++) {
    texts[i] = at;
    if (at < all + size) at += strlen(at) + 1;
    if (at > all + size) at = all + size;
  }
  return all;
}

// A file with that content, at its beginning.
static inline int file_of(const uint8_t *data, size_t size) {
  int fd = memfd_create("input", 0);
  if (fd < 0 || write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET)) abort();
  return fd;
}

#endif
