// SPDX-License-Identifier: Apache-2.0
// The command `start ID`: read a job's frame, have a shim for it, and follow it. The host repeats it
// when its connection breaks, so it starts nothing that there is already.
#include "job.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OTHER_TRIES 1000 // times 10 ms

static pid_t starter;
static const char *wanted;

static void wait_a_little(int tries) {
  nanosleep(&(struct timespec){.tv_nsec = tries < 100 ? 500000 : 10000000}, NULL);
}

// What came for its standard input, as a file: the connection may end before the program reads it.
static int read_input(const struct job *job) {
  static char data[1 << 16];
  int fd = memfd_create("stdin", MFD_CLOEXEC);
  if (fd < 0 || fchown(fd, job->account->uid, job->account->gid)) fail("input");
  for (size_t left = job->input; left > 0;) {
    size_t part = left < sizeof data ? left : sizeof data;
    if (!read_exactly(0, data, part) || !write_exactly(fd, data, part)) fail("input");
    left -= part;
  }
  lseek(fd, 0, SEEK_SET);
  return fd;
}

// Remove what was made for a job that does not begin, and say why.
static void give_up(const char *what) {
  int error = errno;
  remove_job(wanted);
  errno = error;
  fail(what);
}

// Whether it was started before. A spare context is the job of whoever starts it first.
static bool is_begun(const struct job *job) {
  char path[MAX_JOB_PATH];
  if (!has_state(job->id)) return false;
  job_path(path, job->id, "note");
  if (access(path, F_OK) == 0 || !job->note || !*job->note) return true;
  if (!is_running(job->id)) return end_tree(job->id), remove_job(job->id), false;
  return write_text(path, job->note), true;
}

// False when another start of the job has come first: then that has made its state.
static bool make_place(const struct job *job) {
  char path[MAX_JOB_PATH];
  make_room(), forget_old_kills(), remove_lost_code();
  job_path(path, job->id, "");
  if (mkdir(path, 0700)) {
    if (errno != EEXIST) fail(job->id);
    for (int tries = 0; tries < OTHER_TRIES && !has_state(job->id); tries++) wait_a_little(tries);
    return false;
  }
  job_path(path, job->id, "note");
  if (job->note && *job->note && !write_text(path, job->note)) give_up("note");
  if (!make_tree(job->id)) give_up(errno == EEXIST ? "killed before it began" : "cgroup");
  return true;
}

static void begin_job(struct job *job) {
  int lock;
  job->account = base_environment();
  job->directory = job->account->directory;
  read_frame(job);
  if (is_begun(job)) return;
  if (job->code != NO_CODE) read_code(job);
  int given = read_input(job);
  if (!make_place(job)) return;
  struct job_state *state = make_state(job->id, &lock);
  if (!state) forget_tree(), give_up("state");
  pid_t shim = fork();
  if (shim == 0) be_shim(job, state, given);
  if (shim < 0) forget_tree(), give_up("fork");
  close(given), close(lock);
  for (int tries = 0; state->stage == STARTING; tries++) {
    if (waitpid(shim, NULL, WNOHANG) != 0) break;
    wait_a_little(tries);
  }
  if (state->stage != STARTING) return;
  forget_tree(), remove_job(job->id); // the shim has complained
  exit(FAILED);
}

// A `kill` that came before the start leaves a directory, which is of no use once that has failed.
// The child that was to become the program may end here, too.
static void forget_kill(void) {
  char path[MAX_JOB_PATH];
  if (getpid() != starter) return;
  job_path(path, wanted, "");
  if (access(path, F_OK)) forget_kill_of(wanted);
}

int start_job(const char *id) {
  static struct job job = {.extension = "", .code = NO_CODE};
  uint64_t offsets[JOB_STREAMS] = {0};
  char path[MAX_JOB_PATH];
  job_path(path, id, "");
  signal(SIGPIPE, SIG_IGN); // what is to be tidied up is, though nobody reads the complaint
  enter_image();
  job.id = wanted = id, starter = getpid();
  atexit(forget_kill);
  begin_job(&job);
  return follow_from(id, offsets);
}
