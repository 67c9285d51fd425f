// SPDX-License-Identifier: Apache-2.0
// Open files and directories that the policy allows, however they are linked and moved meanwhile.
//
// The path as it was asked for must be allowed: whoever asks for another learns nothing of what is
// there. It is resolved below the directory that allows it, with O_PATH, so that nothing is opened
// that minds (a FIFO, a device); the place where that led is read off the descriptor, and checked; and
// what that descriptor stands for is opened. No name is looked up a second time.
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool was_made;

#define TRIES 16 // of making a file that others make and remove

// A path split at the directory that allows it: BASE is opened as the operator wrote it, and REST is
// resolved below.
struct split {
  char whole[MAX_PATH], base[MAX_PATH];
  const char *rest; // into whole; "" for the directory itself
};

bool has_dots(const char *path) {
  for (const char *at = path; *at; at += strcspn(at, "/"), at += *at == '/')
    if (!strncmp(at, "..", 2) && (!at[2] || at[2] == '/')) return true;
  return false;
}

// Without empty components and single dots. False after `refuse`.
static bool tidy(const char *path, int how, char whole[MAX_PATH]) {
  size_t used = 0, length = strlen(path);
  if (path[0] != '/' || length >= MAX_PATH)
    return refuse(INVALID_PARAMS, "parameter", "path", "path must be absolute"), false;
  if (has_dots(path)) return refuse(INVALID_PARAMS, "parameter", "path", "path has a .. in it"), false;
  bool is_directory = path[length - 1] == '/' || !strcmp(path + length - 2, "/.");
  if (is_directory && !(how & OPEN_DIRECTORY))
    return refuse(INVALID_PARAMS, "parameter", "path", "path is a directory's"), false;
  for (const char *at = path; *at;) {
    at += strspn(at, "/");
    size_t size = strcspn(at, "/");
    if (size && !(size == 1 && *at == '.')) {
      whole[used++] = '/';
      memcpy(whole + used, at, size);
      used += size;
    }
    at += size;
  }
  if (!used) whole[used++] = '/';
  whole[used] = 0;
  return true;
}

// Find the shortest beginning of the path that is allowed, which is the directory that allows it.
static bool split(const char *path, enum access access, int how, struct split *split) {
  if (!tidy(path, how, split->whole) || !check_place(split->whole, access)) return false;
  size_t length = strlen(split->whole);
  for (size_t i = 1; i <= length; i++) {
    if (i > 1 && i < length && split->whole[i] != '/') continue;
    memcpy(split->base, split->whole, i);
    split->base[i] = 0;
    split->rest = split->whole + i + (split->whole[i] == '/');
    if (i == length || check_place(split->base, access)) return true;
  }
  return false;
}

static int cannot(const char *path, enum access access) {
  if (errno == EXDEV)
    refuse(DENIED, "policy", policy_of(access), "%s: a link leads out of what is allowed", path);
  else if (errno == ENOSYS)
    refuse(UNSUPPORTED, NULL, NULL, "this kernel has no openat2, or /proc is not mounted");
  else if (errno == EAGAIN)
    refuse(BUSY, NULL, NULL, "%s: it is being moved all the time", path);
  else
    refuse_errno(path);
  return -1;
}

// Below a directory nothing leads out of it; below / there is no out, and links may be absolute.
static int open_below(const char *base, const char *rest, int flags) {
  int root = open_resolved(AT_FDCWD, base, O_PATH | (*rest ? O_DIRECTORY : flags), 0, ANYWHERE);
  if (!*rest || root < 0) return root;
  int fd = open_resolved(root, rest, O_PATH | flags, 0, strcmp(base, "/") ? BENEATH : IN_ROOT);
  int error = errno;
  close(root);
  return errno = error, fd;
}

// Where it leads is not told to those who may not know.
static bool check_real(const char *place, const struct split *from, enum access access) {
  if (check_place(place, access)) return true;
  if (strcmp(place, from->whole))
    refuse(DENIED, "policy", policy_of(access), "%s: it leads to what is not allowed", from->whole);
  return false;
}

// Whether what FD stands for may be used: its real place, kind and file system.
static bool is_allowed(int fd, const struct split *from, enum access access, bool is_directory) {
  char place[MAX_PATH];
  struct stat about;
  if (!real_place(fd, access, place) || !check_real(place, from, access)) return false;
  if (is_pseudo(fd, access, from->whole)) return false;
  if (fstat(fd, &about)) return refuse_errno(from->whole), false;
  if (is_directory && S_ISDIR(about.st_mode)) return true;
  errno = is_directory ? ENOTDIR : S_ISDIR(about.st_mode) ? EISDIR : S_ISLNK(about.st_mode) ? ELOOP : 0;
  if (errno) return refuse_errno(from->whole), false;
  const char *policy = policy_of(access), *path = from->whole;
  if (!S_ISREG(about.st_mode))
    return refuse(DENIED, "policy", policy, "%s: it is not a regular file", path), false;
  // Any user can give a file of somebody else a second name, in a directory that is allowed, where the
  // kernel does not forbid it (fs.protected_hardlinks). Then nobody knows where it belongs.
  if (about.st_nlink > 1 && (strcmp(from->base, "/") || denies_places(access)))
    return refuse(DENIED, "policy", policy, "%s: the file has other names", path), false;
  return true;
}

// Take FD, opened with O_PATH; what it stands for is opened again, if that is allowed.
static int use(int fd, const struct split *from, enum access access, int how) {
  if (fd < 0) return cannot(from->whole, access);
  int again = -1, flags = access == WRITE ? O_WRONLY : O_RDONLY;
  if (is_allowed(fd, from, access, how & OPEN_DIRECTORY)) {
    again = reopen(fd, flags);
    if (again < 0) cannot(from->whole, access);
  }
  close(fd);
  if (again >= 0 && how & OPEN_EMPTY && ftruncate(again, 0)) {
    refuse_errno(from->whole);
    close(again);
    return -1;
  }
  return again;
}

// The directory of a file that is to be written, and whether the file may have its name there.
static int open_parent(struct split *from, const char *name, enum access access) {
  char place[MAX_PATH], parent[MAX_PATH];
  bool is_base = !*from->rest; // the policy allows this one file
  snprintf(parent, sizeof parent, "%.*s", (int)(name - 1 - from->whole), from->whole);
  const char *rest = is_base ? "" : parent + (from->rest - from->whole);
  if (!is_base && from->rest == name) rest = "";
  int fd = open_below(is_base ? (*parent ? parent : "/") : from->base, rest, O_DIRECTORY);
  if (fd < 0) return cannot(from->whole, access);
  if (real_place(fd, access, place)) {
    size_t used = strcmp(place, "/") ? strlen(place) : 0;
    if (used + 1 + strlen(name) >= MAX_PATH) {
      refuse(TOO_LARGE, NULL, NULL, "its real path is too long");
    } else {
      place[used] = '/';
      strcpy(place + used + 1, name);
      if (check_real(place, from, access) && !is_pseudo(fd, access, from->whole)) return fd;
    }
  }
  close(fd);
  return -1;
}

// An old file, or a new one, which has its mode whatever the umask is.
static int open_or_make(struct split *from, enum access access, int how, mode_t mode) {
  const char *name = strrchr(from->whole, '/') + 1;
  if (!*name) return errno = EISDIR, refuse_errno(from->whole), -1;
  int parent = open_parent(from, name, access), fd = -1;
  if (parent < 0) return -1;
  for (int i = 0; i < TRIES; i++) {
    fd = open_resolved(parent, name, O_PATH | O_NOFOLLOW, 0, BENEATH);
    if (fd >= 0 || errno != ENOENT || !(how & OPEN_MAKE)) {
      close(parent);
      return use(fd, from, access, how);
    }
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    fd = open_resolved(parent, name, flags, 0600, BENEATH);
    if (fd >= 0 || errno != EEXIST) break;
  }
  if (fd < 0) cannot(from->whole, access);
  was_made = fd >= 0;
  if (fd >= 0 && fchmod(fd, mode)) refuse_errno(from->whole), close(fd), fd = -1;
  close(parent);
  return fd;
}

int open_allowed(const char *path, enum access access, int how, mode_t mode) {
  struct split from;
  was_made = false;
  if (!split(path, access, how, &from)) return -1;
  if (access == WRITE) return open_or_make(&from, access, how, mode);
  int fd = open_below(from.base, from.rest, how & OPEN_DIRECTORY ? O_DIRECTORY : 0);
  return use(fd, &from, access, how);
}
