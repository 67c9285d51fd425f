// SPDX-License-Identifier: Apache-2.0
// get_disk_usage: the mounted file systems that have a size. One that does not answer, because its
// server is gone, hides none of the others: a process of its own asks it, and is given little time.
#include "facts.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 2000   // milliseconds for all file systems that may not answer
#define MAX_NAMES 98304 // bytes of names in a result, so that it fits into a line

static bool is_one_of(const char *type, const char *const *types, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(type, types[i]) == 0) return true;
  return false;
}

static bool may_have_size(const struct mount *mount) {
  static const char *const NONE[] = {
      "proc",       "sysfs",   "cgroup",     "cgroup2",  "devpts",     "mqueue",     "debugfs",
      "tracefs",    "autofs",  "securityfs", "pstore",   "bpf",        "configfs",   "fusectl",
      "efivarfs",   "nsfs",    "selinuxfs",  "smackfs",  "rpc_pipefs", "binfmt_misc"};
  return !is_one_of(mount->type, NONE, LENGTH(NONE));
}

static bool answers(const struct mount *mount) {
  static const char *const IN_MEMORY[] = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "overlay"};
  return is_on_disk(mount) || is_one_of(mount->type, IN_MEMORY, LENGTH(IN_MEMORY));
}

static long milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// As statvfs, in a process of its own until DUE. False without an answer: *IS_LATE, or an error.
static bool ask(const char *point, struct statvfs *size, long due, bool *is_late) {
  int ends[2];
  long left = due - milliseconds();
  if (left <= 0 || pipe2(ends, O_CLOEXEC)) return *is_late = true, false;
  pid_t child = fork();
  if (child == 0) {
    if (statvfs(point, size) || write(ends[1], size, sizeof *size) < 0) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  struct pollfd answer = {.fd = ends[0], .events = POLLIN};
  *is_late = child < 0 || poll(&answer, 1, (int)left) <= 0;
  bool is_there = !*is_late && read(ends[0], size, sizeof *size) == sizeof *size;
  close(ends[0]);
  if (child > 0) kill(child, SIGKILL); // what hangs in the kernel ends later
  if (child > 0) waitpid(child, NULL, *is_late ? WNOHANG : 0);
  return is_there;
}

static json_t *describe(const struct mount *mount, const struct statvfs *size) {
  uint64_t unit = size->f_frsize, free = size->f_bfree, all = size->f_blocks;
  return json_pack("{s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o}", "source",
                   short_text(mount->source, MAX_PATH - 1), "mount_point",
                   short_text(mount->point, MAX_PATH - 1), "type", short_text(mount->type, MAX_NAME),
                   "read_only", !mount->is_writable, "total_bytes", number(all * unit),
                   "used_bytes", number(all > free ? (all - free) * unit : 0), "available_bytes",
                   number(size->f_bavail * unit), "inodes", number(size->f_files), "inodes_free",
                   number(size->f_ffree));
}

// Those that answer come first, and then the others as far as there is time.
json_t *get_disk_usage(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  static struct mounts mounts;
  struct statvfs size;
  if (!read_mounts(&mounts, may_have_size)) return refuse_errno("the mounted file systems");
  json_t *list = json_array();
  bool is_cut = mounts.is_cut, is_late = false;
  size_t names = 0;
  long due = milliseconds() + PATIENCE;
  for (size_t i = 0; i < 2 * mounts.count; i++) {
    const struct mount *mount = &mounts.all[i % mounts.count];
    if (answers(mount) != (i < mounts.count)) continue;
    if (answers(mount) ? statvfs(mount->point, &size) : !ask(mount->point, &size, due, &is_late)) {
      if (is_late) is_cut = true;
      continue;
    }
    size_t length = strlen(mount->source) + strlen(mount->point);
    if (size.f_blocks == 0) continue;
    if (names + length > MAX_NAMES || !listed(list, describe(mount, &size), MAX_LISTED)) is_cut = true;
    else names += length;
  }
  return json_pack("{s:o, s:b}", "filesystems", list, "truncated", is_cut);
}
