// SPDX-License-Identifier: Apache-2.0
// A frame, as the login shell reads it from stdin.
#include "harness.h"

static void *last;
static void *tracked(size_t size) { return last = malloc(size); }
#define malloc tracked
#include "frame.c"
#undef malloc

const struct account ROOT;
static jmp_buf refused;
void fail(const char *what) { longjmp(refused, what != NULL); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct job job;
  int fd = file_of(data, size);
  memset(&job, 0, sizeof job);
  job.extension = "";
  job.code = NO_CODE;
  last = NULL;
  dup2(fd, 0);
  close(fd);
  if (!setjmp(refused)) {
    read_frame(&job);
    if (!job.argv[0] || strlen(job.extension) > MAX_EXTENSION) abort();
  }
  clearenv();
  free(last);
  return 0;
}
