// SPDX-License-Identifier: Apache-2.0
// Code that came with a frame, as a file. It lies in a directory of its own in memory, so that the
// working directory holds nothing that its owner did not put there, may be read-only, and a full
// disk is no obstacle. A runner beside it (runner.python, runner.node) makes the interpreter take it for
// a file of the working directory. For an interpreter without a runner it lies there in fact. Whoever
// is to remove the directory has it locked: others remove it when that was killed.
#include "session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CODE (16u << 20)
#define MAX_RUNNER (16u << 10)
#define MAX_PLACES 256 // looked at, at a time
#define YOUNG 5 // seconds

static const struct {
  const char *word, *name;
} RUNNERS[] = {{"{runner.py}", "runner.py"}, {"{runner.js}", "runner.js"}};

static bool create(const struct job *job, const char *path, const void *data, size_t size) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  bool good = write_exactly(fd, data, size) &&
              fchown(fd, job->account->uid, job->account->gid) == 0;
  int error = errno;
  close(fd);
  if (!good) unlink(path);
  return errno = error, good;
}

bool lay(const struct job *job, const char *name, const void *data, size_t size) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", job->place, name);
  return create(job, path, data, size);
}

static bool lay_beside(struct job *job, const char *directory, const char *code) {
  snprintf(job->file, sizeof job->file, "%s/.waggle-%.13s%s", directory, job->id, job->extension);
  return create(job, job->file, code, job->code);
}

// What the runner finds beside itself: the code as `main`, and where it is to seem to lie.
static bool lay_runner(struct job *job, const char *name) {
  char path[256], text[MAX_RUNNER];
  snprintf(path, sizeof path, KIT "/runners/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t size = read(fd, text, sizeof text);
  close(fd);
  snprintf(job->runner, sizeof job->runner, "%s/%s", job->place, name);
  return size > 0 && create(job, job->runner, text, (size_t)size) &&
         lay(job, "directory", job->directory, strlen(job->directory));
}

static bool make_locked(const char *place) {
  int fd = mkdir(place, 0755) ? -1 : open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd >= 0 && flock(fd, LOCK_SH) == 0; // it stays open
}

static bool lay_apart(struct job *job, const char *code) {
  snprintf(job->place, sizeof job->place, CODE "/%.8s", job->id);
  snprintf(job->file, sizeof job->file, "%s/main%s", job->place, job->extension);
  if (!make_locked(job->place) || !create(job, job->file, code, job->code)) return false;
  for (char **word = job->argv; *word; word++)
    for (size_t i = 0; i < LENGTH(RUNNERS); i++) {
      if (strcmp(*word, RUNNERS[i].word) != 0) continue;
      *word = job->runner;
      return lay_runner(job, RUNNERS[i].name);
    }
  return true;
}

void read_code(struct job *job) {
  char *code = job->code > MAX_CODE ? NULL : malloc(job->code + 1);
  if (!code || !read_exactly(0, code, job->code)) errno = EPROTO, fail("code");
  code[job->code] = 0;
  job->text = code;
}

bool write_code(struct job *job) {
  if (job->is_apart ? !lay_apart(job, job->text)
                    : !lay_beside(job, job->directory, job->text) &&
                          !(errno == ENOSPC && lay_beside(job, "/dev/shm", job->text))) {
    int error = errno;
    if (job->is_apart) remove_code(job);
    errno = error;
    complain(errno == ENOENT || errno == ENOTDIR ? job->directory : job->file);
    return false;
  }
  for (char **word = job->argv; *word; word++)
    if (strcmp(*word, "{file}") == 0) *word = job->file;
  return true;
}

static void remove_place(const char *place) {
  DIR *files = opendir(place);
  struct dirent *entry;
  while (files && (entry = readdir(files))) unlinkat(dirfd(files), entry->d_name, 0);
  if (files) closedir(files);
  rmdir(place);
}

void remove_code(const struct job *job) {
  if (job->code == NO_CODE) return;
  if (*job->place) remove_place(job->place);
  else unlink(job->file);
}

// One that is young may not be locked yet.
static bool is_lost(const char *place) {
  struct stat about;
  int fd = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  bool is_free = fd >= 0 && fstat(fd, &about) == 0 && about.st_mtim.tv_sec + YOUNG < time(NULL) &&
                 flock(fd, LOCK_EX | LOCK_NB) == 0;
  if (fd >= 0) close(fd);
  return is_free;
}

void remove_lost_code(void) {
  char place[64 + NAME_MAX];
  DIR *all = opendir(CODE);
  struct dirent *entry;
  for (int i = 0; all && i < MAX_PLACES && (entry = readdir(all)); i++) {
    snprintf(place, sizeof place, CODE "/%s", entry->d_name);
    if (*entry->d_name != '.' && is_lost(place)) remove_place(place);
  }
  if (all) closedir(all);
}
