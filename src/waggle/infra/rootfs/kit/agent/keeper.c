// SPDX-License-Identifier: Apache-2.0
// The keeper: a process that holds file systems frozen, until it is told to thaw them, its time is
// over, the agent ends, or nobody waits for the freezing any more. It holds no connection.
// Another process freezes, because that may hang: on a device whose file is frozen, or on a disk that
// is gone. The keeper then thaws what is frozen, and with it perhaps what hangs.
#include "facts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NAME "waggle-freeze"

// Every process of the agent sees this page.
static struct {
  _Atomic pid_t keeper; // 0 without one; a keeper that was killed leaves its number
  atomic_int count, error;
  atomic_bool is_done, is_over; // all are frozen; all are to be thawed
  atomic_bool is_frozen[MAX_MOUNTS];
} *shared;

__attribute__((constructor)) static void share(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static int fds[MAX_MOUNTS]; // the mount points, or -1
static size_t fd_count;

static int process(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

// A descriptor of the keeper if it lives, or -1.
static int living(pid_t keeper) {
  char path[64], name[32] = "";
  int fd = keeper > 0 ? process(keeper) : -1;
  if (fd < 0) return -1;
  snprintf(path, sizeof path, "/proc/%d/comm", keeper);
  read_text(path, name, sizeof name);
  struct pollfd end = {.fd = fd, .events = POLLIN};
  if (strcmp(name, NAME "\n") == 0 && poll(&end, 1, 0) == 0) return fd;
  return close(fd), -1;
}

// Become the one keeper; false when there is one.
static bool claim(void) {
  pid_t old = atomic_load(&shared->keeper);
  int fd = living(old);
  if (fd >= 0) return close(fd), false;
  if (!atomic_compare_exchange_strong(&shared->keeper, &old, getpid())) return false;
  shared->count = 0;
  shared->error = 0;
  shared->is_done = false;
  shared->is_over = false;
  for (size_t i = 0; i < MAX_MOUNTS; i++) shared->is_frozen[i] = false;
  return true;
}

// The last that was mounted is frozen first: what it lies on still takes its writes.
static void freeze_all(bool must) {
  for (size_t i = fd_count; i-- > 0 && !shared->is_over;) {
    if (fds[i] >= 0 && ioctl(fds[i], FIFREEZE, 0) == 0) {
      shared->is_frozen[i] = true;
      shared->count++;
    } else if (must || (fds[i] >= 0 && errno != EOPNOTSUPP && errno != ENOTTY && errno != EBUSY)) {
      shared->error = fds[i] < 0 ? ENOTDIR : errno;
      break;
    }
  }
  for (size_t i = 0; i < fd_count && shared->is_over; i++) // nobody waits for it any more
    if (atomic_exchange(&shared->is_frozen[i], false)) ioctl(fds[i], FITHAW, 0);
  _exit(0);
}

static void thaw(pid_t freezer) {
  shared->is_over = true;
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < fd_count; i++)
      if (atomic_exchange(&shared->is_frozen[i], false)) ioctl(fds[i], FITHAW, 0);
    if (freezer > 0) waitpid(freezer, NULL, 0);
  }
}

static void on_signal(int signal) { (void)signal; } // ends ppoll, where alone it is let in

// Wait until WHAT is ready; false when the freezing is to end: at DUE, by a signal, or another's end.
static bool wait_for(int what, int agent, int requester, const struct timespec *due) {
  struct pollfd ends[] = {{.fd = what, .events = POLLIN}, {.fd = agent, .events = POLLIN},
                          {.fd = requester}}; // POLLERR when nobody reads any more
  struct timespec now, left = {0};
  sigset_t none;
  sigemptyset(&none);
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (now.tv_sec < due->tv_sec) left.tv_sec = due->tv_sec - now.tv_sec;
  return ppoll(ends, LENGTH(ends), &left, &none) > 0 && ends[0].revents && !ends[1].revents;
}

static void say(int requester, int error) {
  if (write(requester, &error, sizeof error) < 0) shared->is_over = true;
  close(requester);
}

static void take_signals(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  static const int ENDS[] = {SIGTERM, SIGINT, SIGHUP, SIGALRM, SIGUSR1, SIGUSR2, SIGQUIT};
  for (size_t i = 0; i < LENGTH(ENDS); i++)
    sigaction(ENDS[i], &(struct sigaction){.sa_handler = on_signal}, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
}

// Close all but the two; and nothing of ours may wait for a log that is frozen.
static void let_go(int agent, int requester) {
  int nothing = open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3 && nothing >= 0; fd++) dup2(nothing, fd);
  for (int fd = 3; fd < 1024; fd++)
    if (fd != agent && fd != requester) close(fd);
}

static void keep(const struct mounts *mounts, bool must, int seconds, int agent, int requester) {
  struct timespec due;
  clock_gettime(CLOCK_MONOTONIC, &due);
  due.tv_sec += seconds;
  setsid();
  prctl(PR_SET_NAME, NAME);
  take_signals();
  let_go(agent, requester);
  if (!claim()) say(requester, shared->is_done ? EALREADY : EINPROGRESS), _exit(0);
  for (fd_count = 0; fd_count < mounts->count; fd_count++)
    fds[fd_count] = open(mounts->all[fd_count].point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  pid_t freezer = fork();
  if (freezer == 0) freeze_all(must);
  int frozen = freezer < 0 ? -1 : process(freezer);
  if (frozen < 0) shared->error = errno;
  else if (!wait_for(frozen, agent, requester, &due)) shared->error = ETIMEDOUT;
  if (shared->error == 0) {
    shared->is_done = true;
    say(requester, 0);
    if (!shared->is_over) wait_for(-1, agent, -1, &due);
    thaw(freezer);
    shared->keeper = 0;
  } else {
    int error = shared->error;
    thaw(freezer);
    shared->keeper = 0; // before the answer, so that a thaw after it does not take this for a keeper
    say(requester, error);
  }
  _exit(0);
}

int start_keeper(const struct mounts *mounts, bool must, int seconds) {
  int ends[2], error = ETIMEDOUT, agent = process(getppid());
  if (shared == MAP_FAILED || agent < 0 || pipe2(ends, O_CLOEXEC)) return -1;
  pid_t keeper = fork();
  if (keeper == 0) keep(mounts, must, seconds, agent, ends[1]);
  close(ends[1]);
  if (keeper < 0 || read(ends[0], &error, sizeof error) < 0) error = errno;
  close(ends[0]), close(agent);
  errno = error;
  return error ? -1 : frozen_count();
}

int frozen_count(void) { return shared->count; }

int end_keeper(void) {
  int fd = shared == MAP_FAILED ? -1 : living(shared->keeper);
  if (fd < 0) return -1;
  struct pollfd end = {.fd = fd, .events = POLLIN};
  syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0);
  while (poll(&end, 1, -1) < 0 && errno == EINTR) {}
  close(fd);
  return frozen_count();
}
