// SPDX-License-Identifier: Apache-2.0
// The end of a whole process tree, that of a run's cgroup. The cgroup's directory is also what `run`
// and `kill` agree on: whoever makes it first decides. A `kill` that comes first leaves it behind,
// and the `run` that finds it there does not start.
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KILL_TRIES 500
#define PAUSE_NS 5000000

void cgroup_path(char *path, size_t size, const char *id, const char *file) {
  if (!*id || strlen(id) > 64 || id[strspn(id, "0123456789abcdef-")]) errno = EINVAL, fail("id");
  snprintf(path, size, KIT_CGROUP "/%s%s", id, file);
}

// Kill until nothing is left that the directory could hold; once it is gone, nobody can join.
bool end_tree(const char *id) {
  char path[160], kill_file[160];
  cgroup_path(path, sizeof path, id, "");
  cgroup_path(kill_file, sizeof kill_file, id, "/cgroup.kill");
  for (int i = 0; i < KILL_TRIES; i++) {
    if (rmdir(path) == 0 || errno == ENOENT) return true;
    write_text(kill_file, "1");
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
  }
  return complain(path), false;
}

int kill_run(const char *id) {
  char path[160];
  enter_image();
  cgroup_path(path, sizeof path, id, "");
  if (mkdir(path, 0755) == 0) return 0; // it has not started, and never will
  if (errno != EEXIST) fail(path);
  return end_tree(id) ? 0 : FAILED;
}
