// SPDX-License-Identifier: Apache-2.0
// A frame is u32 size (big endian) and NUL-terminated fields, each a letter and a value:
//   r (as root), d directory, e NAME=value, a argument, c bytes of code, x its extension
// Without r it runs as the environment's user, without d where that user's programs start.
// The bytes of code follow the frame; the rest of stdin is the program's.
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FRAME (512u << 10)
#define MAX_CODE (16u << 20)

static void parse_field(struct job *job, char *field, int *words) {
  char *value = field + 1;
  switch (*field) {
  case 'r': job->account = &ROOT; break;
  case 'd': job->directory = value; break;
  case 'e': putenv(value); break;
  case 'c': job->code = strtoul(value, NULL, 10); break;
  case 'x': job->extension = value; break;
  case 'a':
    if (*words == MAX_WORDS) errno = E2BIG, fail("arguments");
    job->argv[(*words)++] = value;
    break;
  default: errno = EPROTO, fail("frame");
  }
}

void read_frame(struct job *job) {
  uint32_t size;
  if (!read_exactly(0, &size, sizeof size)) errno = EPROTO, fail("frame");
  size = ntohl(size);
  char *frame = size > MAX_FRAME ? NULL : malloc(size + 1);
  if (!frame || !read_exactly(0, frame, size)) errno = EPROTO, fail("frame");
  frame[size] = 0;
  int words = 0;
  for (char *at = frame; at < frame + size; at += strlen(at) + 1) parse_field(job, at, &words);
  if (words == 0) errno = EPROTO, fail("frame");
}

static bool write_file_in(const char *directory, struct job *job, const char *code) {
  snprintf(job->file, sizeof job->file, "%s/.waggle-%.13s%s", directory, job->id, job->extension);
  int fd = open(job->file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  bool good = write_exactly(fd, code, job->code) &&
              fchown(fd, job->account->uid, job->account->gid) == 0;
  int error = errno;
  close(fd);
  if (!good) unlink(job->file);
  return errno = error, good;
}

// The code lies in the working directory, so that imports and relative paths mean what they say.
// On a full disk it lies in memory: deleting something must stay possible.
void write_code(struct job *job) {
  char *code = job->code > MAX_CODE ? NULL : malloc(job->code + 1);
  if (!code || !read_exactly(0, code, job->code)) errno = EPROTO, fail("code");
  if (!write_file_in(job->directory, job, code) &&
      !(errno == ENOSPC && write_file_in("/dev/shm", job, code)))
    fail(errno == ENOENT || errno == ENOTDIR ? job->directory : job->file);
  free(code);
  for (char **word = job->argv; *word; word++)
    if (strcmp(*word, "{file}") == 0) *word = job->file;
}
