// SPDX-License-Identifier: Apache-2.0
// Stands for the agent: says its number, then says again what it hears, and dies of the word "die".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
  char heard[4096];
  ssize_t size;
  dprintf(3, "agent %d\n", (int)getpid());
  while ((size = read(3, heard, sizeof heard)) > 0) {
    if (memmem(heard, (size_t)size, "die", 3)) abort();
    if (write(3, heard, (size_t)size) != size) return 1;
  }
  return 0;
}
