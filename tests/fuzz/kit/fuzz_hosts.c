// SPDX-License-Identifier: Apache-2.0
// A line of an image's /etc/hosts, after the machine's name.
#include "harness.h"
#include "hosts.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *parts[2];
  char *all = split(data, size, parts, 2);
  for (const char *line = parts[1]; *line;) {
    size_t length = strcspn(line, "\n");
    is_ours(line, length, parts[0]);
    line += length + (line[length] == '\n');
  }
  free(all);
  return 0;
}

bool write_file(const char *path, int flags, mode_t mode, const void *data, size_t size) {
  return path && flags >= 0 && mode && data && size;
}
bool write_text(const char *path, const char *text) { return path && text; }
bool write_exactly(int fd, const void *data, size_t size) { return fd >= 0 && data && size; }

bool has_modules(void) { return false; }
