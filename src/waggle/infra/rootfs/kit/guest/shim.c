// SPDX-License-Identifier: Apache-2.0
// The shim of a job: the process that holds a client's program, its pipes and its end. It belongs to
// no connection, so the job goes on when that breaks, the machine is paused, or copied. It keeps
// what the program prints (spool.c), answers requests (clients.c), and leaves the job's end where
// everyone who follows it finds it. start.c makes it.
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct job_state *state;
static struct program program = {.input = -1};

static void take(int stream, const char *data, size_t size) {
  if (stream == DISPLAYS) feed_displays(state, data, size);
  else feed_spool(stream, data, size);
}

static void pass_on(void) {
  uint64_t before = 0, after = 0;
  for (int i = 0; i < JOB_STREAMS; i++) before += state->spools[i].total;
  pass_streams(others, 2 + CLIENTS, -1);
  for (int i = 0; i < JOB_STREAMS; i++) after += state->spools[i].total;
  if (after != before) notify_clients();
  serve_clients(&program);
}

static int await(void) {
  int status = FAILED << 8;
  struct signalfd_siginfo signal;
  while (waitpid(program.pid, &status, WNOHANG) == 0) {
    pass_on();
    if (others[0].revents) read_exactly(others[0].fd, &signal, sizeof signal);
  }
  return status;
}

static void open_driver(const char *id, const struct account *account, int ends[2]) {
  static const char *const names[] = {"ask", "answer"};
  char path[MAX_JOB_PATH];
  for (int i = 0; i < 2; i++) {
    job_path(path, id, names[i]);
    ends[i] = mkfifo(path, 0600) || chown(path, account->uid, account->gid)
                  ? -1
                  : open(path, O_RDWR | O_CLOEXEC);
    if (ends[i] < 0) fail(names[i]);
  }
}

static void start(const struct job *job, int standard_input, int driver[2], const sigset_t *signals) {
  enter_tree();
  setsid();
  if (job->window.ws_row ? !use_terminal() : dup2(standard_input, 0) < 0 || !use_streams())
    fail("streams");
  if (job->has_driver && (dup2(driver[0], 3) < 0 || dup2(driver[1], 4) < 0)) fail("driver");
  if (job->has_displays) setenv("WAGGLE_DISPLAY", "3", 1);
  sigprocmask(SIG_SETMASK, signals, NULL);
  if (job->context) munmap(state, sizeof *state), run_cell(job);
  become_program(job, signals);
}

// What is left goes on, and its output is read by nobody. In a context that is what has the streams.
static void outlast(const struct job *job, bool is_over) {
  abandon_streams();
  if (!is_over) forget_later();
  while (job->context && has_streams() && pass_streams(NULL, 0, -1) > 0) {}
}

static void list_what_is_left(const char *id) {
  int fd = memfd_create("left", MFD_CLOEXEC);
  list_left(fd, id);
  ssize_t size = pread(fd, state->left, MAX_LEFT - 1, 0);
  state->left[size > 0 ? size : 0] = 0;
  close(fd);
}

static void __attribute__((noreturn)) end(const struct job *job, int status) {
  char path[MAX_JOB_PATH];
  remove_code(job);
  leave_record(job, status, tree());
  bool all_over = is_over();
  if (all_over) strcpy(state->left, "all 0\n");
  else list_what_is_left(job->id);
  job_path(path, job->id, "socket");
  unlink(path);
  state->status = status;
  state->ended = nanoseconds();
  state->stage = ENDED;
  notify_clients();
  close_clients();
  close(program.input);
  outlast(job, all_over);
  _exit(0);
}

static void open_output(struct job *job) {
  int count = job->has_displays ? JOB_STREAMS : 2;
  for (int i = 0; i < JOB_STREAMS; i++)
    if (!open_spool(i, job->id, &state->spools[i], i == DISPLAYS ? MAX_DISPLAYS : job->keep))
      fail("output");
  if (!(job->window.ws_row ? open_terminal(job->account, &job->window, take)
                           : open_streams(job->account, count, take)))
    fail("streams");
}

// Complaints still go to it, until the program's own stderr takes them.
static void leave_connection(void) {
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 2; fd++) dup2(nothing, fd);
  for (int fd = 3; fd <= 4; fd++) { // taken, so that what the child gets there is nothing else's
    if (fcntl(fd, F_GETFD) >= 0) continue;
    dup2(nothing, fd);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  setsid();
}

static void start_program(struct job *job, int given, int driver[2], const sigset_t *signals) {
  bool is_ready = job->code == NO_CODE || write_code(job);
  state->started = nanoseconds();
  pid_t child = is_ready ? fork() : -1;
  if (child == 0) start(job, given, driver, signals);
  if (is_ready && child < 0) complain("fork");
  program.pid = state->program = child;
  dup2(1, 2); // to nowhere: nobody would read complaints from here on
  share_streams();
  close(given);
  for (int i = 0; i < 2; i++)
    if (driver[i] >= 0) close(driver[i]);
}

void be_shim(struct job *job, struct job_state *its_state, int given) {
  sigset_t mine, theirs;
  int driver[2] = {-1, -1};
  state = its_state;
  leave_connection();
  sigemptyset(&mine);
  sigaddset(&mine, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mine, &theirs);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_DFL);
  open_clients(job->id);
  others[0].fd = signalfd(-1, &mine, SFD_CLOEXEC);
  open_output(job);
  say_on_stderr();
  if (job->has_driver) open_driver(job->id, job->account, driver);
  if (!job->window.ws_row) given = open_input(job, given, &program.input);
  else type_input(job, given, program.input = fcntl(terminal(), F_DUPFD_CLOEXEC, 5));
  watch_run();
  show_notice();
  start_program(job, given, driver, &theirs);
  state->stage = RUNNING;
  notify_clients();
  end(job, program.pid < 0 ? FAILED << 8 : await());
}
