// SPDX-License-Identifier: Apache-2.0
// The program of a job whose code runs in a context: it asks that context's driver, and ends as the
// driver answers. A request is a line "ID PID DIRECTORY": whose standard streams (of process PID)
// the code has, and where the code lies, with files `env` (NUL-terminated variables) and `cwd` if
// they are given; an answer is a line "ID STATUS". One has the driver at a time, the others wait. Before
// its first request a driver says "ready", a line that no one takes for an answer.
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FD 64
#define LINE 128
#define MAX_READ 4096
#define START 60000 // milliseconds; a driver that still starts then may end by an interrupt

enum { ANSWER, SHIM, INTERRUPT, WAITS };

// The signal says it to whoever follows this job.
static void end_with_context(void) {
  sigset_t all;
  sigemptyset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  raise(CONTEXT_ENDED);
  _exit(FAILED);
}

static int open_of(const char *id, const char *file, int flags) {
  char path[MAX_JOB_PATH];
  job_path(path, id, file);
  return open(path, flags | O_CLOEXEC, 0600);
}

// The first code of a context brings all variables: its interpreter may have started in the machine
// that this is a copy of.
static bool is_first(const struct job *job) {
  int fd = open_of(job->context, "used", O_WRONLY | O_CREAT | O_EXCL);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

// An interrupt would end a driver that still starts: until it is ready, this process takes them.
static void await_driver(const struct job *job, int answer, int shim) {
  char path[MAX_JOB_PATH];
  struct pollfd waits[] = {{.fd = answer, .events = POLLIN}, {.fd = shim, .events = POLLIN}};
  job_path(path, job->context, "used");
  if (access(path, F_OK) && poll(waits, LENGTH(waits), START) > 0 && waits[1].revents)
    end_with_context();
}

// Whatever else has come to be in its place, root of the guest can have put there.
static bool is_fifo(int fd) {
  struct stat about;
  return fd >= 0 && fstat(fd, &about) == 0 && S_ISFIFO(about.st_mode);
}

static void lay_surroundings(const struct job *job) {
  size_t size = 0;
  char *text = NULL;
  for (char *const *variable = is_first(job) ? environ : job->variables; *variable; variable++) {
    size_t length = strlen(*variable) + 1;
    char *more = realloc(text, size + length);
    if (!more) fail("variables");
    memcpy((text = more) + size, *variable, length);
    size += length;
  }
  if (text && !lay(job, "env", text, size)) fail("env");
  if (job->has_directory && !lay(job, "cwd", job->directory, strlen(job->directory))) fail("cwd");
  free(text);
}

// Only what is needed stays open, with the lock as descriptor 4: from here on the process is a user's.
static void close_others(const int keep[3], int and) {
  for (int fd = 5; fd < MAX_FD; fd++)
    if (fd != keep[ANSWER] && fd != keep[SHIM] && fd != keep[INTERRUPT] && fd != and) close(fd);
}

// The status, if the lines that came have the answer; else -1.
static int answer_in(int fd, const char *id) {
  static char text[LINE];
  static size_t length;
  for (int i = 0; i < MAX_READ; i++) { // other events want their turn, whatever a driver writes
    ssize_t n = read(fd, text + length, 1);
    if (n <= 0) return -1;
    if (text[length] != '\n') {
      if (++length == sizeof text) length = 0; // no answer is so long
      continue;
    }
    text[length] = 0, length = 0;
    int status;
    if (!strncmp(text, id, ID_LENGTH) && sscanf(text + ID_LENGTH, " %d", &status) == 1)
      return status & 255;
  }
  return -1;
}

static void await_answer(const struct job *job, const int fds[WAITS], pid_t driver) {
  struct pollfd waits[WAITS];
  for (int i = 0; i < WAITS; i++) waits[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  for (;;) {
    char bytes[64];
    struct signalfd_siginfo signal;
    if (poll(waits, WAITS, -1) < 0 && errno != EINTR) _exit(FAILED);
    if (waits[ANSWER].revents) {
      int status = answer_in(fds[ANSWER], job->id);
      if (status >= 0) _exit(status);
      if (waits[ANSWER].revents & POLLHUP) waits[ANSWER].fd = -1;
    }
    if (waits[INTERRUPT].revents && read_exactly(fds[INTERRUPT], &signal, sizeof signal))
      kill(-driver, SIGINT);
    if (waits[SHIM].revents && recv(fds[SHIM], bytes, sizeof bytes, 0) <= 0) end_with_context();
  }
}

void run_cell(const struct job *job) {
  sigset_t interrupts;
  sigemptyset(&interrupts);
  sigaddset(&interrupts, SIGINT);
  sigaddset(&interrupts, SIGTERM);
  struct job_state *context = map_state(job->context);
  int lock = open_of(job->context, "lock", O_RDONLY | O_CREAT);
  if (!context || lock < 0) end_with_context();
  while (flock(lock, LOCK_EX) && errno == EINTR) {}
  int fds[WAITS] = {open_of(job->context, "answer", O_RDONLY | O_NONBLOCK), connect_shim(job->context),
                    signalfd(-1, &interrupts, SFD_CLOEXEC)};
  int ask = open_of(job->context, "ask", O_WRONLY | O_NONBLOCK);
  if (!is_fifo(fds[ANSWER]) || fds[SHIM] < 0 || !is_fifo(ask) || context->stage != RUNNING ||
      context->program <= 1)
    end_with_context();
  await_driver(job, fds[ANSWER], fds[SHIM]);
  sigprocmask(SIG_BLOCK, &interrupts, NULL);
  send(fds[SHIM], (char[2]){FOLLOW}, 2, MSG_NOSIGNAL);
  name_root(job->account);
  lay_surroundings(job);
  pid_t driver = context->program;
  if (dup2(lock, 4) < 0) fail("lock"); // held until the answer
  close_others(fds, ask);
  become(job->account);
  prctl(PR_SET_DUMPABLE, 1); // the driver opens our standard streams
  dprintf(ask, "%s %d %s\n", job->id, (int)getpid(), job->place);
  await_answer(job, fds, driver);
  _exit(FAILED);
}
