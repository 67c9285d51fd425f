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
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_JOBS 128 // directories; ended ones go first
#define MAX_FAR (96ull << 20) // bytes of ended jobs on the scratch disk
#define MAX_NOTE 4096

void job_path(char path[MAX_JOB_PATH], const char *id, const char *file) {
  if (strlen(id) != ID_LENGTH || id[strspn(id, "0123456789abcdef-")]) errno = EINVAL, fail("id");
  snprintf(path, MAX_JOB_PATH, JOBS "/%s%s%s", id, *file ? "/" : "", file);
}

struct job_state *map_state(const char *id, bool is_mine) {
  char path[MAX_JOB_PATH];
  job_path(path, id, "state");
  int flags = is_mine ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY;
  int fd = open(path, flags | O_CLOEXEC, 0600);
  struct stat about;
  if (fd < 0) return NULL;
  if (is_mine ? ftruncate(fd, sizeof(struct job_state)) != 0
              : fstat(fd, &about) || about.st_size != sizeof(struct job_state))
    return close(fd), NULL;
  void *state = mmap(NULL, sizeof(struct job_state), PROT_READ | (is_mine ? PROT_WRITE : 0),
                     MAP_SHARED, fd, 0);
  close(fd);
  return state == MAP_FAILED ? NULL : state;
}

static int stage_of(const char *id) {
  struct job_state *state = map_state(id, false);
  int stage = state ? state->stage : -1;
  if (state) munmap(state, sizeof *state);
  return stage;
}

bool is_running(const char *id) {
  int stage = stage_of(id);
  return stage == STARTING || stage == RUNNING;
}

bool has_ended(const char *id) { return stage_of(id) == ENDED; }

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
  int64_t ended; // 0 while it runs
  off_t far;
};

static int by_end(const void *a, const void *b) {
  const struct found *one = a, *other = b;
  return one->ended < other->ended ? -1 : one->ended > other->ended;
}

static off_t far_bytes(const char *id) {
  char path[MAX_JOB_PATH];
  struct stat about;
  off_t bytes = 0;
  for (int i = 0; i < JOB_STREAMS; i++) {
    snprintf(path, sizeof path, FAR "/%.36s.%d", id, i);
    if (stat(path, &about) == 0) bytes += about.st_size;
  }
  return bytes;
}

// All jobs, those that run first and then the oldest end.
static int find_jobs(struct found jobs[MAX_JOBS]) {
  DIR *directory = opendir(JOBS);
  struct dirent *entry;
  int count = 0;
  while (directory && count < MAX_JOBS && (entry = readdir(directory))) {
    if (strlen(entry->d_name) != ID_LENGTH) continue;
    struct job_state *state = map_state(entry->d_name, false);
    if (!state) continue;
    struct found *job = &jobs[count++];
    strcpy(job->id, entry->d_name);
    job->ended = state->stage == ENDED ? state->ended : 0;
    job->far = far_bytes(job->id);
    munmap(state, sizeof *state);
  }
  if (directory) closedir(directory);
  qsort(jobs, (size_t)count, sizeof *jobs, by_end);
  return count;
}

void make_room(void) {
  static struct found jobs[MAX_JOBS];
  int count = find_jobs(jobs), left = count;
  off_t far = 0;
  for (int i = 0; i < count; i++) far += jobs[i].ended ? jobs[i].far : 0;
  for (int i = 0; i < count && (left > MAX_JOBS - 8 || (unsigned long long)far > MAX_FAR); i++)
    if (jobs[i].ended) remove_job(jobs[i].id), left--, far -= jobs[i].far;
}

static void say_job(const char *id) {
  char path[MAX_JOB_PATH], note[MAX_NOTE];
  struct job_state *state = map_state(id, false);
  job_path(path, id, "note");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, note, sizeof note);
  if (fd >= 0) close(fd);
  if (!state) return;
  if (size < 0) size = 0;
  dprintf(1, "%s %d %d %lld %llu %llu %llu %zd\n", id, state->stage, state->status,
          (long long)elapsed(state), (unsigned long long)state->spools[STDOUT].total,
          (unsigned long long)state->spools[STDERR].total,
          (unsigned long long)state->spools[DISPLAYS].total, size);
  write_exactly(1, note, (size_t)size);
  write_exactly(1, "\n", 1);
  munmap(state, sizeof *state);
}

int list_jobs(void) {
  static struct found jobs[MAX_JOBS];
  enter_image();
  int count = find_jobs(jobs);
  for (int i = 0; i < count; i++) say_job(jobs[i].id);
  dprintf(1, "all %d\n", count);
  return 0;
}
