// SPDX-License-Identifier: Apache-2.0
// The jobs of this machine: their files, and the list that the host asks for when it has a machine
// that it does not know, a copy or one that slept: for each a line
//   ID STAGE STATUS ELAPSED STDOUT STDERR DISPLAYS NOTE
// of its stage, its end as wait(2) has it, nanoseconds, bytes printed and bytes of its note, which
// follow, and a line end.
#include "job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_JOBS 128 // directories; ended ones go first
#define MAX_FAR (96 << 20)  // bytes of ended jobs on the scratch disk
#define MAX_NEAR (16 << 20) // and in memory
#define MAX_NOTE 2000 // the host sends no more

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
static struct job_state *look_at(const char *id, bool *has_shim) {
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

int64_t monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return nanoseconds(&now);
}

int64_t elapsed(const struct job_state *state) {
  return (state->stage == ENDED ? state->ended : monotonic()) - state->started;
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

struct found {
  char id[ID_LENGTH + 1];
  int64_t ended; // 0 while it runs; of one that lost its shim when it began
  off_t near, far;
};

static int by_end(const void *a, const void *b) {
  const struct found *one = a, *other = b;
  return one->ended < other->ended ? -1 : one->ended > other->ended;
}

static off_t bytes_of(const char *format, const char *id) {
  char path[MAX_JOB_PATH];
  struct stat about;
  off_t bytes = 0;
  for (int i = 0; i < JOB_STREAMS; i++) {
    snprintf(path, sizeof path, format, id, i);
    if (stat(path, &about) == 0) bytes += about.st_blocks * 512;
  }
  return bytes;
}

static bool find_job(const char *id, struct found *job) {
  bool has_shim;
  struct job_state *state = look_at(id, &has_shim);
  if (!state) return false;
  strcpy(job->id, id);
  job->ended = state->stage == ENDED ? state->ended : has_shim ? 0 : state->started + 1;
  job->near = bytes_of(JOBS "/%.36s/%d", id);
  job->far = bytes_of(FAR "/%.36s.%d", id);
  munmap(state, sizeof *state);
  return true;
}

// All jobs, those that run first and then the oldest end.
static int find_jobs(struct found jobs[MAX_JOBS]) {
  DIR *directory = opendir(JOBS);
  struct dirent *entry;
  int count = 0;
  while (directory && count < MAX_JOBS && (entry = readdir(directory)))
    if (is_id(entry->d_name)) count += find_job(entry->d_name, &jobs[count]);
  if (directory) closedir(directory);
  qsort(jobs, (size_t)count, sizeof *jobs, by_end);
  return count;
}

void make_room(void) {
  static struct found jobs[MAX_JOBS];
  int count = find_jobs(jobs), left = count;
  off_t near = 0, far = 0;
  for (int i = 0; i < count; i++)
    if (jobs[i].ended) near += jobs[i].near, far += jobs[i].far;
  for (int i = 0; i < count && (left > MAX_JOBS - 8 || near > MAX_NEAR || far > MAX_FAR); i++)
    if (jobs[i].ended) remove_job(jobs[i].id), left--, near -= jobs[i].near, far -= jobs[i].far;
  forget_old_kills();
}

static bool say_job(const char *id) {
  char path[MAX_JOB_PATH], note[MAX_NOTE];
  struct job_state *state = map_state(id);
  job_path(path, id, "note");
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t size = fd < 0 ? 0 : read(fd, note, sizeof note);
  if (fd >= 0) close(fd);
  if (!state) return false; // removed meanwhile
  if (size < 0) size = 0;
  dprintf(1, "%s %d %d %lld %llu %llu %llu %zd\n", id, state->stage, state->status,
          (long long)elapsed(state), (unsigned long long)state->spools[STDOUT].total,
          (unsigned long long)state->spools[STDERR].total,
          (unsigned long long)state->spools[DISPLAYS].total, size);
  write_exactly(1, note, (size_t)size);
  write_exactly(1, "\n", 1);
  munmap(state, sizeof *state);
  return true;
}

int list_jobs(void) {
  static struct found jobs[MAX_JOBS];
  enter_image();
  int count = find_jobs(jobs), said = 0;
  for (int i = 0; i < count; i++) said += say_job(jobs[i].id);
  dprintf(1, "all %d\n", said);
  return 0;
}
