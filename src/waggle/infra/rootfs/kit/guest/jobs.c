// SPDX-License-Identifier: Apache-2.0
// All jobs of this machine: room for the next, and the list that the host asks for when it has a
// machine that it does not know, a copy or one that slept: for each a line
//   ID STAGE STATUS ELAPSED STDOUT STDERR DISPLAYS NOTE
// of its stage, its end as wait(2) has it, nanoseconds, bytes printed and bytes of its note, which
// follow, and a line end.
#include "job.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_JOBS 128 // directories; ended ones go first
#define LEFT_JOBS 104 // when some have to go
#define MAX_FAR (96 << 20)  // bytes of ended jobs on the scratch disk
#define MAX_NEAR (16 << 20) // and in memory
#define MAX_NOTE 2000 // the host sends no more

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

// Whether there is room without looking at each job: this is on the way of all that start.
static bool has_room(void) {
  struct statvfs memory;
  struct stat about;
  struct dirent *entry;
  int count = 0;
  off_t far = 0;
  DIR *jobs = opendir(JOBS), *disk = opendir(FAR);
  while (jobs && readdir(jobs)) count++;
  while (disk && (entry = readdir(disk)))
    if (fstatat(dirfd(disk), entry->d_name, &about, 0) == 0 && S_ISREG(about.st_mode))
      far += about.st_blocks * 512;
  if (jobs) closedir(jobs);
  if (disk) closedir(disk);
  if (statvfs(JOBS, &memory)) return false;
  return count <= MAX_JOBS - 8 && far <= MAX_FAR &&
         (memory.f_blocks - memory.f_bfree) * memory.f_frsize <= MAX_NEAR;
}

void make_room(void) {
  static struct found jobs[MAX_JOBS];
  if (has_room()) return;
  int count = find_jobs(jobs), left = count;
  off_t near = 0, far = 0;
  for (int i = 0; i < count; i++)
    if (jobs[i].ended) near += jobs[i].near, far += jobs[i].far;
  for (int i = 0; i < count && (left > LEFT_JOBS || near > MAX_NEAR || far > MAX_FAR); i++)
    if (jobs[i].ended) remove_job(jobs[i].id), left--, near -= jobs[i].near, far -= jobs[i].far;
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
