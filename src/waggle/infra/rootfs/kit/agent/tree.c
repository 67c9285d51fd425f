// SPDX-License-Identifier: Apache-2.0
// The end of a program and of all that comes from it, daemons with sessions of their own included.
//
// The process that runs a program is the one that its orphans fall to, so all of them are below it for
// good. They are stopped first, over and over until none runs that could make another one, and then
// killed. What is signalled is /proc/PID as it was opened, not a
// number, which may be another process's a moment later.
#include "exec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#define MAX_SEEN 16384 // processes of the machine that one look takes in
#define FIRST -20      // priority while it lasts
#define MAX_LOOKS 32   // to stop them all
#define STOP_NS 2000000000ll
#define KILL_NS 5000000000ll
#define PAUSE_NS 5000000

// A process of this machine, as seen in one look.
struct process {
  pid_t pid, parent;
  char state;
  bool is_ours;
};
static struct process seen[MAX_SEEN];
static size_t seen_count;

bool adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0; }

bool reap(pid_t program, int *status) {
  bool is_over = false;
  int its_status;
  for (pid_t pid; (pid = waitpid(-1, &its_status, WNOHANG)) > 0;)
    if (pid == program) *status = its_status, is_over = true;
  return is_over;
}

// What /proc/PID, which is open as DIRECTORY, says; the name in its middle may hold anything.
static bool look_at(int directory, struct process *process) {
  char line[512];
  int fd = openat(directory, "stat", O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
  if (fd >= 0) close(fd);
  if (size <= 0) return false;
  line[size] = 0;
  const char *end = strrchr(line, ')');
  return end && sscanf(end + 1, " %c %d", &process->state, &process->parent) == 2;
}

static int open_process(int proc, pid_t pid) {
  char name[16];
  snprintf(name, sizeof name, "%d", pid);
  return openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int compare(const void *left, const void *right) {
  return ((const struct process *)left)->pid - ((const struct process *)right)->pid;
}

static bool is_of_us(pid_t parent) {
  struct process wanted = {.pid = parent};
  if (parent == getpid()) return true;
  const struct process *found = bsearch(&wanted, seen, seen_count, sizeof *seen, compare);
  return found && found->is_ours;
}

// Send it to the process that DIRECTORY is of.
static void send_to(int directory, pid_t pid, int number) {
  if (syscall(SYS_pidfd_send_signal, directory, number, NULL, 0) && errno != ESRCH)
    kill(pid, number); // a kernel without the call
}

static bool is_idle(const struct process *process) { return strchr("TtZXx", process->state); }

// Take in one process, and signal it, if it comes from us as far as that is known. Most come after
// their parents, as pids grow.
static void meet(DIR *proc, pid_t pid, int number) {
  struct process *process = &seen[seen_count];
  *process = (struct process){.pid = pid};
  int directory = pid > 0 ? open_process(dirfd(proc), pid) : -1;
  if (directory < 0) return;
  if (look_at(directory, process)) {
    seen_count++;
    process->is_ours = is_of_us(process->parent);
    if (process->is_ours && (number == SIGKILL || !is_idle(process))) send_to(directory, pid, number);
  }
  close(directory);
}

// The others: signal them, if they still come from us.
static void meet_again(DIR *proc, struct process *process, int number) {
  int directory = open_process(dirfd(proc), process->pid);
  process->is_ours = true;
  if (directory < 0) return;
  if (look_at(directory, process) && is_of_us(process->parent)) send_to(directory, process->pid, number);
  close(directory);
}

// Signal all that come from us: the number of those that were not stopped or dead.
static size_t signal_all(DIR *proc, int number) {
  size_t running = 0;
  seen_count = 0;
  rewinddir(proc);
  for (struct dirent *entry; seen_count < MAX_SEEN && (entry = readdir(proc));)
    meet(proc, atoi(entry->d_name), number);
  qsort(seen, seen_count, sizeof *seen, compare);
  for (bool is_changed = true; is_changed;) {
    is_changed = false;
    for (size_t i = 0; i < seen_count; i++)
      if (!seen[i].is_ours && is_of_us(seen[i].parent))
        meet_again(proc, &seen[i], number), is_changed = true;
  }
  for (size_t i = 0; i < seen_count; i++) running += seen[i].is_ours && !is_idle(&seen[i]);
  return running;
}

bool kill_tree(pid_t program, int *status) {
  bool is_done = false;
  siginfo_t about;
  int64_t began = monotonic();
  DIR *proc = opendir("/proc");
  int nice = getpriority(PRIO_PROCESS, 0);
  setpriority(PRIO_PROCESS, 0, FIRST); // thousands may want to run
  for (int i = 0; proc && i < MAX_LOOKS && monotonic() < began + STOP_NS; i++)
    if (!signal_all(proc, SIGSTOP)) break;
  do {
    if (proc) signal_all(proc, SIGKILL);
    // Without /proc, or where it hides others' processes, at least the program's own group.
    if (waitid(P_PID, (id_t)program, &about, WEXITED | WNOHANG | WNOWAIT) == 0)
      kill(-program, SIGKILL);
    reap(program, status);
    is_done = waitid(P_ALL, 0, &about, WEXITED | WNOHANG | WNOWAIT) && errno == ECHILD;
    if (!is_done) nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
  } while (!is_done && monotonic() < began + KILL_NS);
  setpriority(PRIO_PROCESS, 0, nice);
  if (proc) closedir(proc);
  return is_done;
}
