// SPDX-License-Identifier: Apache-2.0
// unpack ROOT: records on stdin, as pack.c has them, become files below ROOT, which is made.
// Each file appears whole, under its name, or not at all; what fails keeps nothing else from being
// written. Prints "x", path, reason for what failed, and at the end "e" and the number of files,
// directories, links, bytes and failures, all NUL-terminated.
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LISTED 100 // failures that are listed one by one

static long long files, directories, links, bytes, failures;
static char temporary[8192];

static void failed(const char *path) {
  const char *why = strerror(errno);
  if (++failures > MAX_LISTED) return;
  put_text("x");
  put_text(path);
  put_text(why);
}

// Make the directories of FULL up to its last slash; what is there already is fine.
static void make_parents(char *full) {
  for (char *slash = strchr(full + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(full, 0755);
    *slash = '/';
  }
}

static void name_temporary(const char *full) {
  static unsigned long count;
  int length = (int)(strrchr(full, '/') - full);
  snprintf(temporary, sizeof temporary, "%.*s/.waggle-%d-%lu", length, full, getpid(), count++);
}

// Take SIZE bytes from stdin, and write them to FD as long as that works; errno has why it did not.
static bool take(int fd, size_t size) {
  static char block[64 << 10];
  int error = 0;
  while (size) {
    size_t want = size < sizeof block ? size : sizeof block;
    if (fread(block, 1, want, stdin) != want) exit(2);
    for (size_t at = 0; fd >= 0 && !error && at < want;) {
      ssize_t written = write(fd, block + at, want - at);
      if (written < 0 && errno != EINTR) error = errno;
      if (written > 0) at += (size_t)written;
    }
    size -= want;
  }
  if (error) errno = error;
  return fd >= 0 && !error;
}

static bool appear(const char *full) {
  if (rename(temporary, full) == 0) return true;
  int error = errno;
  unlink(temporary);
  return errno = error, false;
}

static bool make_file(char *full, unsigned mode, long long mtime, size_t size) {
  make_parents(full);
  name_temporary(full);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), error = errno;
  bool good = take(fd, size);
  if (fd < 0) return errno = error, false;
  struct timespec times[2] = {{.tv_sec = mtime}, {.tv_sec = mtime}};
  good = good && fchmod(fd, mode & 0777) == 0 && (futimens(fd, times), true);
  error = errno;
  close(fd);
  if (!good) return unlink(temporary), errno = error, false;
  if (!appear(full)) return false;
  files++;
  bytes += (long long)size;
  return true;
}

static bool make_link(char *full, size_t size) {
  char target[4096];
  if (size >= sizeof target || fread(target, 1, size, stdin) != size) exit(2);
  target[size] = 0;
  make_parents(full);
  name_temporary(full);
  if (symlink(target, temporary) || !appear(full)) return false;
  return links++, true;
}

static bool make_directory(char *full, unsigned mode) {
  struct stat about;
  make_parents(full);
  if (mkdir(full, 0755) && (errno != EEXIST || stat(full, &about) || !S_ISDIR(about.st_mode)))
    return errno = EEXIST, false;
  chmod(full, (mode & 0777) | 0700);
  return directories++, true;
}

int unpack(int argc, char **argv) {
  char *head = NULL, *name = NULL, full[8000], kind;
  size_t head_room = 0, name_room = 0, size;
  unsigned mode;
  long long mtime;
  if (argc != 2) return 2;
  snprintf(full, sizeof full, "%s/", argv[1]);
  make_parents(full);
  if (mkdir(argv[1], 0755) && errno != EEXIST) return dprintf(2, "%s\n", strerror(errno)), 1;
  int root = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0 || faccessat(root, ".", W_OK | X_OK, 0))
    return dprintf(2, "%s\n", strerror(errno)), 1;
  while (getdelim(&head, &head_room, 0, stdin) > 0) {
    if (getdelim(&name, &name_room, 0, stdin) <= 0) return 2;
    if (sscanf(head, "%c %o %lld %zu", &kind, &mode, &mtime, &size) != 4) return 2;
    if ((size_t)snprintf(full, sizeof full, "%s/%s", argv[1], name) >= sizeof full) return 2;
    bool good = kind == 'f'   ? make_file(full, mode, mtime, size)
                : kind == 'l' ? make_link(full, size)
                              : make_directory(full, mode);
    if (!good) failed(name);
  }
  put_text("e");
  const long long counts[] = {files, directories, links, bytes, failures};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) put_number(counts[i]);
  put_flush();
  return 0;
}
