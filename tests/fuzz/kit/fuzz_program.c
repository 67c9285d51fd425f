// SPDX-License-Identifier: Apache-2.0
// A program file whose interpreter or loader is looked for, and a script whose line ends are.
#include "harness.h"
#include "program.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char needs[MAX_NAME] = "", path[64], found[MAX_NAME];
  int fd = file_of(data, size);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (interpreter_of(path, needs) && !*needs) abort();
  ends_in_cr(path);
  char *words;
  char *all = split(data, size, &words, 1);
  look_for_crlf(words, found);
  free(all);
  close(fd);
  return 0;
}
