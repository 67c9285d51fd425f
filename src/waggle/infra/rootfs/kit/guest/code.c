// SPDX-License-Identifier: Apache-2.0
// Code that came with a frame, as a file. It lies in a directory of its own in memory, so that the
// working directory holds nothing that its owner did not put there, may be read-only, and a full
// disk is no obstacle. A runner beside it (runner.python, runner.node) makes the interpreter take it for
// a file of the working directory. For an interpreter without a runner it lies there in fact.
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CODE (16u << 20)
#define MAX_RUNNER (16u << 10)

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

static bool lay_apart(struct job *job, const char *code) {
  snprintf(job->place, sizeof job->place, CODE "/%.8s", job->id);
  snprintf(job->file, sizeof job->file, "%s/main%s", job->place, job->extension);
  if (mkdir(job->place, 0755) || !create(job, job->file, code, job->code)) return false;
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

void remove_code(const struct job *job) {
  static const char *const beside[] = {"directory", "env", "cwd"};
  char path[256];
  if (job->code == NO_CODE) return;
  unlink(job->file);
  if (!*job->place) return;
  if (*job->runner) unlink(job->runner);
  for (size_t i = 0; i < LENGTH(beside); i++) {
    snprintf(path, sizeof path, "%s/%s", job->place, beside[i]);
    unlink(path);
  }
  rmdir(job->place);
}
