// SPDX-License-Identifier: Apache-2.0
// A program in a cgroup of its own, so that its whole tree, daemons included, can be ended at once.
// What `kill` does to it is in ending.c.
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GRACE_TRIES 10 // for what ends just after the program, as what is behind `> >(tee log)`
#define GRACE_MS 20
#define LOST_SECONDS 10 // until a program ends whose connection has ended
#define LOST_MS 100

static char cgroup[160]; // of this run
static struct timespec started;

static void forget(void) { rmdir(cgroup); }

// What runs out of memory ends as a whole: half of a process tree hangs, or fails later in a way
// that nobody understands.
static void end_as_one(void) {
  char file[192];
  snprintf(file, sizeof file, "%s/memory.oom.group", cgroup);
  write_text(file, "1");
}

// While something was left running in the background, its cgroup must stay, and its output go
// somewhere. A process that holds nothing else of the run waits for the last one to end.
static void forget_later(void) {
  char file[192], text[128];
  if (fork() != 0) return;
  snprintf(file, sizeof file, "%s/cgroup.events", cgroup);
  for (int fd = 0; fd < 3; fd++) close(fd);
  setsid();
  abandon_streams();
  struct pollfd events = {.fd = open(file, O_RDONLY | O_CLOEXEC), .events = POLLPRI};
  while (rmdir(cgroup) != 0 && errno == EBUSY) {
    if (pread(events.fd, text, sizeof text, 0) < 0) break;
    do
      if (pass_streams(&events, -1) < 0 && errno != EINTR) _exit(0);
    while (!events.revents);
  }
  _exit(0);
}

static void start(const struct job *job, const sigset_t *signals) {
  char procs[192];
  snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
  if (!write_text(procs, "0")) _exit(FAILED); // killed before it began
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, signals, NULL);
  setsid();
  if (!use_streams()) fail("streams");
  become(job->account);
  if (chdir(job->directory)) note_directory_failure(errno), fail(job->directory);
  umask(022);
  execvp(job->argv[0], job->argv);
  int error = errno;
  complain(job->argv[0]);
  note_exec_failure(job->argv[0], error);
  _exit(error == ENOENT ? 127 : 126);
}

// Whether the machine is a copy that was made since the run began: nobody waits for it here.
static bool is_in_a_copy(void) {
  long long when = 0;
  int fd = open(KIT_HUNG_UP, O_RDONLY | O_CLOEXEC);
  bool told = fd >= 0 && read_exactly(fd, &when, sizeof when);
  if (fd >= 0) close(fd);
  return told && when >= nanoseconds(&started);
}

// Pass on output until a signal comes, or so many milliseconds. The end of our SSH connection ends
// the program, too, but in a copy of the machine: there it is one that was left running. The copy
// may learn of that end before it is told that it is one, so it waits for that.
static void pass_on_output(struct pollfd *signals, const char *id, int timeout) {
  static long long lost;
  struct signalfd_siginfo signal;
  struct timespec now;
  if (lost && (timeout < 0 || timeout > LOST_MS)) timeout = LOST_MS;
  bool is_told = pass_streams(signals, timeout) > 0 && signals->revents &&
                 read_exactly(signals->fd, &signal, sizeof signal) && signal.ssi_signo == SIGHUP;
  if (!lost && !is_told) return;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (is_told) lost = nanoseconds(&now);
  if (is_in_a_copy()) abandon_streams(), lost = 0;
  else if (nanoseconds(&now) - lost > LOST_SECONDS * 1000000000ll) end_tree(id), lost = 0;
}

static int await(pid_t child, const char *id, struct pollfd *signals) {
  int status = FAILED << 8;
  while (child > 0 && waitpid(child, &status, WNOHANG) == 0) pass_on_output(signals, id, -1);
  return status;
}

// Whether nothing is left of the run but its output until now, which is passed on. What is left
// has a moment to end, too.
static bool is_over(const char *id, struct pollfd *signals) {
  bool is_gone = rmdir(cgroup) == 0 || errno != EBUSY;
  for (int i = 0; i < GRACE_TRIES && !is_gone; i++) {
    struct timespec until, now;
    clock_gettime(CLOCK_MONOTONIC, &until);
    do {
      pass_on_output(signals, id, GRACE_MS);
      clock_gettime(CLOCK_MONOTONIC, &now);
    } while (nanoseconds(&now) - nanoseconds(&until) < GRACE_MS * 1000000ll);
    is_gone = rmdir(cgroup) == 0 || errno != EBUSY;
  }
  while (limit_streams()) pass_on_output(signals, id, -1);
  return is_gone;
}

// End as the program ended, so that SSH reports its exit code or its signal. SSH has names for
// these signals only; the others become an exit code, as shells have it.
static int pass_on(int status) {
  static const int named[] = {SIGABRT, SIGALRM, SIGFPE,  SIGHUP,  SIGILL,  SIGINT, SIGKILL,
                              SIGPIPE, SIGQUIT, SIGSEGV, SIGTERM, SIGUSR1, SIGUSR2};
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
    if (WTERMSIG(status) != named[i]) continue;
    sigset_t none;
    sigemptyset(&none);
    signal(named[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    raise(named[i]);
  }
  return 128 + WTERMSIG(status);
}

int run(const char *id) {
  static struct job job = {.extension = "", .code = NO_CODE};
  sigset_t mine, theirs;
  sigemptyset(&mine);
  sigaddset(&mine, SIGCHLD);
  sigaddset(&mine, SIGHUP);
  sigprocmask(SIG_BLOCK, &mine, &theirs);
  signal(SIGPIPE, SIG_IGN);
  struct pollfd signals = {.fd = signalfd(-1, &mine, SFD_CLOEXEC), .events = POLLIN};
  pid_t server = getppid();
  clock_gettime(CLOCK_MONOTONIC, &started);
  enter_image();
  cgroup_path(cgroup, sizeof cgroup, id, "");
  atexit(forget);
  if (mkdir(cgroup, 0755)) fail(id);
  end_as_one();
  show_notice();
  job.account = base_environment();
  job.directory = job.account->directory;
  job.id = id;
  read_frame(&job);
  if (job.code != NO_CODE) write_code(&job);
  if (prctl(PR_SET_PDEATHSIG, SIGHUP) || getppid() != server) raise(SIGHUP);
  watch_run();
  if (signals.fd < 0 || !open_streams(job.account)) fail("streams");
  pid_t child = fork();
  if (child == 0) start(&job, &theirs);
  if (child < 0) complain("fork");
  share_streams();
  int status = await(child, id, &signals);
  remove_code(&job);
  leave_record(&job, status, cgroup);
  if (!is_over(id, &signals)) {
    dprintf(2, "%c" LEFT_MARK " %s\n", 0, id);
    tell_left(2, id);
    forget_later();
  }
  return pass_on(status);
}
