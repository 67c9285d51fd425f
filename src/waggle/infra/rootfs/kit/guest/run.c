// SPDX-License-Identifier: Apache-2.0
// A program in a cgroup of its own, so that its whole tree, daemons included, can be ended at once.
// The cgroup's directory is also what `run` and `kill` agree on: whoever makes it first decides.
// A `kill` that comes first leaves it behind, and the `run` that finds it there does not start.
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILL_TRIES 500
#define PAUSE_NS 5000000

static char cgroup[160]; // of this run

static void cgroup_path(char *path, size_t size, const char *id, const char *file) {
  if (!*id || strlen(id) > 64 || id[strspn(id, "0123456789abcdef-")]) errno = EINVAL, fail("id");
  snprintf(path, size, KIT_CGROUP "/%s%s", id, file);
}

// Kill until nothing is left that the directory could hold; once it is gone, nobody can join.
static bool end_tree(const char *id) {
  char path[160], kill_file[160];
  cgroup_path(path, sizeof path, id, "");
  cgroup_path(kill_file, sizeof kill_file, id, "/cgroup.kill");
  for (int i = 0; i < KILL_TRIES; i++) {
    if (rmdir(path) == 0 || errno == ENOENT) return true;
    write_text(kill_file, "1");
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
  }
  return complain(path), false;
}

int kill_run(const char *id) {
  char path[160];
  enter_image();
  cgroup_path(path, sizeof path, id, "");
  if (mkdir(path, 0755) == 0) return 0; // it has not started, and never will
  if (errno != EEXIST) fail(path);
  return end_tree(id) ? 0 : FAILED;
}

static void forget(void) { rmdir(cgroup); }

// What runs out of memory ends as a whole: half of a process tree hangs, or fails later in a way
// that nobody understands.
static void end_as_one(void) {
  char file[192];
  snprintf(file, sizeof file, "%s/memory.oom.group", cgroup);
  write_text(file, "1");
}

// While something was left running in the background, its cgroup must stay. A process that holds
// nothing else of the run waits for the last one to end.
static void forget_later(void) {
  char file[192], text[128];
  if (rmdir(cgroup) == 0 || errno != EBUSY || fork() != 0) return;
  snprintf(file, sizeof file, "%s/cgroup.events", cgroup);
  for (int fd = 0; fd < 3; fd++) close(fd);
  setsid();
  struct pollfd events = {.fd = open(file, O_RDONLY | O_CLOEXEC), .events = POLLPRI};
  while (rmdir(cgroup) != 0 && errno == EBUSY)
    if (pread(events.fd, text, sizeof text, 0) < 0 || poll(&events, 1, -1) < 0) break;
  _exit(0);
}

static void start(const struct job *job, const sigset_t *signals) {
  char procs[192];
  snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
  if (!write_text(procs, "0")) _exit(FAILED); // killed before it began
  sigprocmask(SIG_SETMASK, signals, NULL);
  setsid();
  become(job->account);
  if (chdir(job->directory)) note_directory_failure(errno), fail(job->directory);
  umask(022);
  execvp(job->argv[0], job->argv);
  int error = errno;
  complain(job->argv[0]);
  note_exec_failure(job->argv[0], error);
  _exit(error == ENOENT ? 127 : 126);
}

// Wait for the program's end, or for that of our SSH connection, which ends the program too.
static int await(pid_t child, const char *id, const sigset_t *signals) {
  int status = FAILED << 8, signal_number = 0;
  while (child > 0 && waitpid(child, &status, WNOHANG) == 0) {
    sigwait(signals, &signal_number);
    if (signal_number == SIGHUP) end_tree(id);
  }
  return status;
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
  pid_t server = getppid();
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
  pid_t child = fork();
  if (child == 0) start(&job, &theirs);
  if (child < 0) complain("fork");
  int status = await(child, id, &mine);
  if (job.code != NO_CODE) unlink(job.file);
  leave_record(id, status, cgroup);
  forget_later();
  return pass_on(status);
}
