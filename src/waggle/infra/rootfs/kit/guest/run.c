// SPDX-License-Identifier: Apache-2.0
// A run: a program of the server's own, which lives as long as the connection that asked for it. It
// prints straight to the SSH server, as fast as that reads. Programs of clients are jobs (shim.c).
#include "session.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static void forget(void) { forget_tree(); }

static void start(const struct job *job, const sigset_t *signals) {
  enter_tree();
  setsid();
  if (!use_streams()) fail("streams");
  become_program(job, signals);
}

// Pass on output until the program ends. The end of our SSH connection ends it, too.
static int await(pid_t child, const char *id, struct pollfd *signals) {
  int status = FAILED << 8;
  struct signalfd_siginfo signal;
  while (child > 0 && waitpid(child, &status, WNOHANG) == 0)
    if (pass_streams(signals, 1, -1) > 0 && signals->revents &&
        read_exactly(signals->fd, &signal, sizeof signal) && signal.ssi_signo == SIGHUP)
      end_tree(id);
  return status;
}

// End as the program ended, so that SSH reports its exit code or its signal. SSH has names for
// these signals only; the others become an exit code, as shells have it.
static int pass_on(int status) {
  static const int named[] = {SIGABRT, SIGALRM, SIGFPE,  SIGHUP,  SIGILL,  SIGINT, SIGKILL,
                              SIGPIPE, SIGQUIT, SIGSEGV, SIGTERM, SIGUSR1, SIGUSR2};
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  for (size_t i = 0; i < LENGTH(named); i++) {
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
  enter_image();
  atexit(forget);
  if (!make_tree(id)) fail(id);
  job.account = base_environment();
  job.directory = job.account->directory;
  job.id = id;
  read_frame(&job);
  if (job.code != NO_CODE) {
    read_code(&job);
    if (!write_code(&job)) return FAILED;
  }
  if (prctl(PR_SET_PDEATHSIG, SIGHUP) || getppid() != server) raise(SIGHUP);
  watch_run();
  if (signals.fd < 0 || !open_streams(job.account, 2, NULL)) fail("streams");
  pid_t child = fork();
  if (child == 0) start(&job, &theirs);
  if (child < 0) complain("fork");
  share_streams();
  int status = await(child, id, &signals);
  remove_code(&job);
  leave_record(&job, status, tree());
  if (!is_over()) end_tree(id);
  return pass_on(status);
}
