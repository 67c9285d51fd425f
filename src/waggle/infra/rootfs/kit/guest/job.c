// SPDX-License-Identifier: Apache-2.0
// One job of this machine: its files, and its state, which its shim has and others look at.
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool is_id(const char *name) {
  return strlen(name) == ID_LENGTH && !name[strspn(name, "0123456789abcdef-")];
}

void job_path(char path[MAX_JOB_PATH], const char *id, const char *file) {
  if (!is_id(id)) errno = EINVAL, fail("id");
  snprintf(path, MAX_JOB_PATH, JOBS "/%s%s%s", id, *file ? "/" : "", file);
}

static struct job_state *map(int fd, int protection) {
  void *state = mmap(NULL, sizeof(struct job_state), protection, MAP_SHARED, fd, 0);
  return state == MAP_FAILED ? NULL : state;
}

static int open_state(const char *id, int flags) {
  char path[MAX_JOB_PATH];
  job_path(path, id, "state");
  return open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);
}

// It is locked before it has its size, and room for all of it, so that no later write finds none.
struct job_state *make_state(const char *id, int *lock) {
  int fd = *lock = open_state(id, O_RDWR | O_CREAT | O_EXCL);
  if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB)) return NULL;
  if ((errno = posix_fallocate(fd, 0, sizeof(struct job_state)))) return NULL;
  int again = open_state(id, O_RDWR); // a mapping of the first would keep it locked
  struct job_state *state = again < 0 ? NULL : map(again, PROT_READ | PROT_WRITE);
  close(again);
  return state;
}

// The state; whether it has a shim, if that is asked for.
struct job_state *look_at(const char *id, bool *has_shim) {
  int fd = open_state(id, O_RDONLY);
  struct stat about;
  if (fd < 0) return NULL;
  struct job_state *state = NULL;
  if (fstat(fd, &about) == 0 && about.st_size == sizeof(struct job_state)) state = map(fd, PROT_READ);
  if (has_shim) *has_shim = flock(fd, LOCK_SH | LOCK_NB) != 0;
  close(fd);
  return state;
}

struct job_state *map_state(const char *id) { return look_at(id, NULL); }

static int stage_of(const char *id, bool *has_shim) {
  struct job_state *state = look_at(id, has_shim);
  int stage = state ? state->stage : -1;
  if (state) munmap(state, sizeof *state);
  return stage;
}

bool has_state(const char *id) { return stage_of(id, NULL) >= 0; }

bool has_ended(const char *id) { return stage_of(id, NULL) == ENDED; }

bool is_running(const char *id) {
  bool has_shim;
  int stage = stage_of(id, &has_shim);
  return has_shim && (stage == STARTING || stage == RUNNING);
}

int64_t elapsed(const struct job_state *state) {
  return (state->stage == ENDED ? state->ended : nanoseconds()) - state->started;
}

void remove_job(const char *id) {
  static const char *const files[] = {"state", "0",   "1",      "2",   "note",
                                      "socket", "ask", "answer", "lock", "used"};
  char path[MAX_JOB_PATH];
  for (size_t i = 0; i < LENGTH(files); i++) job_path(path, id, files[i]), unlink(path);
  for (int i = 0; i < JOB_STREAMS; i++)
    snprintf(path, sizeof path, FAR "/%.36s.%d", id, i), unlink(path);
  job_path(path, id, "");
  rmdir(path);
}
