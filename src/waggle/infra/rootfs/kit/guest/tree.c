// SPDX-License-Identifier: Apache-2.0
// The process tree of a run or a job: a cgroup of its own, so that all of it, daemons included, can
// be ended at once, and the program that it begins with. The cgroup's directory is also what a start
// and `kill` agree on: whoever makes it first decides. A `kill` that comes first leaves it behind,
// and the start that finds it there does not begin.
#include "job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KILL_TRIES 500
#define PAUSE_NS 5000000
#define GRACE_TRIES 10 // for what ends just after the program, as what is behind `> >(tee log)`
#define GRACE_MS 20
#define START_SECONDS 600 // no start comes so much later than its `kill`

static char cgroup[160]; // of this process's run or job

void cgroup_path(char *path, size_t size, const char *id, const char *file) {
  if (!*id || strlen(id) > 64 || id[strspn(id, "0123456789abcdef-")]) errno = EINVAL, fail("id");
  snprintf(path, size, KIT_CGROUP "/%s%s", id, file);
}

// What runs out of memory ends as a whole: half of a process tree hangs, or fails later in a way
// that nobody understands.
static void end_as_one(void) {
  char file[192];
  snprintf(file, sizeof file, "%s/memory.oom.group", cgroup);
  write_text(file, "1");
}

bool make_tree(const char *id) {
  cgroup_path(cgroup, sizeof cgroup, id, "");
  if (mkdir(cgroup, 0755)) return false;
  return end_as_one(), true;
}

const char *tree(void) { return cgroup; }

bool forget_tree(void) { return rmdir(cgroup) == 0 || errno != EBUSY; }

void enter_tree(void) {
  char procs[192];
  snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
  if (!write_text(procs, "0")) _exit(FAILED); // killed before it began
}

// Kill until nothing is left that the directory could hold; once it is gone, nobody can join.
bool end_tree(const char *id) {
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
  if (is_id(id) && has_state(id)) { // a job; when it has ended, something of it may be left
    if (!end_tree(id)) return FAILED;
    end_shim(id);
    return 0;
  }
  if (mkdir(path, 0755) == 0) return 0; // it has not started, and never will
  if (errno != EEXIST) fail(path);
  return end_tree(id) ? 0 : FAILED;
}

void forget_kill_of(const char *id) {
  char path[160];
  cgroup_path(path, sizeof path, id, "");
  rmdir(path);
}

// The kernel may take a directory for younger than it is, and removes none that has a process.
void forget_old_kills(void) {
  DIR *runs = opendir(KIT_CGROUP);
  struct dirent *entry;
  struct stat about;
  while (runs && (entry = readdir(runs)))
    if (is_id(entry->d_name) && !has_state(entry->d_name) &&
        fstatat(dirfd(runs), entry->d_name, &about, 0) == 0 &&
        about.st_mtim.tv_sec + START_SECONDS < time(NULL))
      unlinkat(dirfd(runs), entry->d_name, AT_REMOVEDIR);
  if (runs) closedir(runs);
}

void become_program(const struct job *job, const sigset_t *signals) {
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, signals, NULL);
  become(job->account);
  if (chdir(job->directory)) note_directory_failure(errno), fail(job->directory);
  umask(022);
  execvp(job->argv[0], job->argv);
  int error = errno;
  complain(job->argv[0]);
  note_exec_failure(job->argv[0], error);
  _exit(error == ENOENT ? 127 : 126);
}

// What is left after the program's end has a little time to end, too; its output until now is
// passed on.
bool is_over(void) {
  bool is_gone = forget_tree();
  for (int i = 0; i < GRACE_TRIES && !is_gone; i++) {
    long long from = milliseconds();
    do pass_streams(NULL, 0, GRACE_MS);
    while (milliseconds() - from < GRACE_MS);
    is_gone = forget_tree();
  }
  while (limit_streams()) pass_streams(NULL, 0, -1);
  return is_gone;
}

// While something was left running in the background, the cgroup must stay, and what it prints go
// somewhere.
void forget_later(void) {
  char file[192], text[128];
  snprintf(file, sizeof file, "%s/cgroup.events", cgroup);
  abandon_streams();
  struct pollfd events = {.fd = open(file, O_RDONLY | O_CLOEXEC), .events = POLLPRI};
  while (pread(events.fd, text, sizeof text, 0) >= 0 && !forget_tree()) // what happens next is seen
    do
      if (pass_streams(&events, 1, -1) < 0 && errno != EINTR) return;
    while (!events.revents);
  close(events.fd);
}
