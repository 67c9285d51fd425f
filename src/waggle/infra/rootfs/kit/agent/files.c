// SPDX-License-Identifier: Apache-2.0
// The methods file_read and file_write.
#include "paths.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static char chunk[MAX_READ];

static json_int_t nanoseconds(const struct timespec *time) {
  int64_t result;
  if (time->tv_sec < 0 || __builtin_mul_overflow((int64_t)time->tv_sec, 1000000000, &result) ||
      __builtin_add_overflow(result, (int64_t)time->tv_nsec, &result))
    return time->tv_sec < 0 ? 0 : INT64_MAX;
  return result;
}

bool add_facts(json_t *result, const struct stat *about, json_t *mode) {
  json_int_t size = about->st_size < 0 ? 0 : about->st_size;
  return json_object_set_new(result, "size", json_integer(size > MOST_COUNT ? MOST_COUNT : size)) == 0 &&
         json_object_set_new(result, "mode", mode) == 0 &&
         json_object_set_new(result, "modified", json_integer(nanoseconds(&about->st_mtim))) == 0;
}

// As much as there is; less than SIZE at the end, or where an error follows. -1 for one at once.
static ssize_t read_at(int fd, char *to, size_t size, off_t offset) {
  size_t used = 0;
  while (used < size) {
    ssize_t got = pread(fd, to + used, size - used, offset + (off_t)used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && !used) return -1;
    if (got <= 0) break;
    used += (size_t)got;
  }
  return (ssize_t)used;
}

json_t *file_read(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  const char *path = text_param(params, "path");
  off_t offset = integer_param(params, "offset", 0);
  int64_t most = limits.read_bytes < MAX_READ ? limits.read_bytes : MAX_READ;
  int64_t length = integer_param(params, "length", most);
  if (length > most)
    return refuse(TOO_LARGE, "parameter", "length", "length is over the %lld that the policy allows",
                  (long long)most);
  int fd = open_allowed(path, READ, 0, 0);
  if (fd < 0) return NULL;
  char next;
  struct stat about;
  ssize_t got = read_at(fd, chunk, (size_t)length, offset);
  // A size says little of a file that grows, or of one that some file system makes up.
  bool is_end = got >= 0 && pread(fd, &next, 1, offset + got) == 0;
  json_t *result = NULL;
  if (got < 0 || fstat(fd, &about))
    refuse_errno(path);
  else if (!(result = json_pack("{s:b}", "end", is_end)) ||
           !add_facts(result, &about, json_integer(about.st_mode & 07777)))
    json_decref(result), result = refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  else
    bytes[0] = (struct bytes){"data", chunk, (size_t)got};
  close(fd);
  return result;
}

static ssize_t write_at(int fd, const unsigned char *from, size_t size, off_t offset) {
  size_t used = 0;
  while (used < size) {
    ssize_t put = pwrite(fd, from + used, size - used, offset + (off_t)used);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0 && !used) return -1;
    if (put <= 0) break;
    used += (size_t)put;
  }
  return (ssize_t)used;
}

// Whoever is told of fewer bytes than were sent asks again for the rest, and is told why not.
static json_t *write_data(const json_t *params, const unsigned char *data, size_t size) {
  const char *path = text_param(params, "path");
  int64_t offset = integer_param(params, "offset", -1);
  if ((int64_t)size > limits.write_bytes)
    return refuse(TOO_LARGE, "parameter", "data", "data is over the %lld bytes that the policy allows",
                  (long long)limits.write_bytes);
  mode_t mode = (mode_t)integer_param(params, "mode", 0644);
  int fd = open_allowed(path, WRITE, offset < 0 ? OPEN_MAKE | OPEN_EMPTY : 0, mode);
  if (fd < 0) return NULL;
  struct stat about;
  signal(SIGXFSZ, SIG_IGN); // a file that grows too large is an error, not the end
  ssize_t put = write_at(fd, data, size, offset < 0 ? 0 : offset);
  // Writing takes set-user-ID away, which is right for all but a new file.
  bool is_done = put >= 0 && (!was_made || fchmod(fd, mode) == 0) && fstat(fd, &about) == 0;
  json_t *result = NULL;
  if (!is_done)
    refuse_errno(path);
  else if (!(result = json_pack("{s:I,s:I}", "written", (json_int_t)put, "size",
                                about.st_size > MOST_COUNT ? MOST_COUNT : (json_int_t)about.st_size)))
    refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  close(fd);
  return result;
}

json_t *file_write(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  size_t size = 0;
  unsigned char *data = bytes_param(params, "data", &size);
  if (!data) return refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  json_t *result = write_data(params, data, size);
  free(data);
  return result;
}
