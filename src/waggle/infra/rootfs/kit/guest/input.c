// SPDX-License-Identifier: Apache-2.0
// The standard input of a job's program: what came with the frame, and what is written later (call.c)
// if it stays open. In a terminal that is typed, with a Ctrl-D at its end if it does not.
#include "job.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_ROOM (64u << 20) // bytes

// Return false if the pipe could not take so much at once.
static bool make_pipe(const struct job *job, int ends[2]) {
  if (pipe2(ends, O_CLOEXEC) || fchown(ends[0], job->account->uid, job->account->gid)) fail("input");
  int room = fcntl(ends[1], F_GETPIPE_SZ);
  return room >= 0 && (job->input <= (size_t)room ||
                       (job->input < MAX_ROOM && fcntl(ends[1], F_SETPIPE_SZ, (int)job->input) > 0));
}

static bool pass_all(int from, int to) {
  static char data[1 << 16];
  ssize_t size;
  while ((size = read(from, data, sizeof data)) > 0)
    if (!write_exactly(to, data, (size_t)size)) return false;
  return size == 0;
}

// A process that may wait for long until the program reads. It holds nothing else of the job.
static void fill(int input, int given, const char *end) {
  pid_t filler = fork();
  if (filler < 0) fail("fork");
  if (filler > 0) return;
  signal(SIGPIPE, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL); // a terminal has no end for who writes
  if (dup2(given, 0) < 0 || dup2(input, 1) < 0 || syscall(SYS_close_range, 2u, ~0u, 0u)) _exit(FAILED);
  _exit(pass_all(0, 1) && write_exactly(1, end, strlen(end)) ? 0 : FAILED);
}

// The first Ctrl-D passes on a line without an end.
void type_input(const struct job *job, int given, int terminal) {
  if (job->input > 0) fill(terminal, given, job->keeps_input ? "" : "\4\4");
}

// What is written later comes after what was given, unless the kernel has no pipe for all of that.
int open_input(const struct job *job, int given, int *more) {
  int ends[2];
  if (!job->keeps_input) return given;
  if (make_pipe(job, ends)) {
    if (!pass_all(given, ends[1])) fail("input");
  } else {
    fill(ends[1], given, "");
  }
  close(given);
  *more = ends[1];
  return ends[0];
}
