// SPDX-License-Identifier: Apache-2.0
// Why a run failed: what the kernel and the launcher know of its end. `run` leaves a record where
// only root can read it, and the host asks for it with `why ID NAME...` when a run did not end well.
// Nothing of it comes from what the program printed. Each line is a key and its values:
//   id ID; exit N or signal N; exec ERRNO, and with it file PATH, needs PATH, or crlf PATH
//   directory ERRNO (the run's, which could not be entered)
//   oom N (processes killed for memory), memory MOST LIMIT SHARED (bytes)
//   forks REFUSED LIMIT; disk FREE ALL, inodes FREE ALL, shm FREE ALL; unrouted N; unheard N
//   have NAME... (those programs of the question that are there)
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECORDS KIT "/run/why"
#define MAX_ASKED 4096 // bytes of a question
#define MAX_DEPTH 4 // a script's interpreter may be a script
#define OUT_NO_ROUTES 12 // the field of that name in the lines "Ip:"
#define NO_PORTS 2       // and in the lines "Udp:"

typedef unsigned long long number;

// Shared with the child until it has become the program.
static struct {
  int error, directory;
  bool ends_in_cr;
  char file[MAX_NAME], needs[MAX_NAME];
} *exec_failure;

static struct counts {
  number forks, unrouted, unheard;
} before;

// A text file of the kernel's, cut to what fits; empty when it cannot be read.
static const char *text_of(const char *path) {
  static char text[8192];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  text[size > 0 ? size : 0] = 0;
  if (fd >= 0) close(fd);
  return text;
}

// The number after KEY at a line's beginning, or 0.
static number value_of(const char *text, const char *key) {
  size_t length = strlen(key);
  for (const char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (!strncmp(line, key, length) && strchr(" \t", line[length]))
      return strtoull(line + length, NULL, 10);
    if (!*line) break;
  }
  return 0;
}

// The field of that number in the second line that begins with KEY: the first has their names.
static number field_of(const char *text, const char *key, int field) {
  const char *at = strstr(text, key);
  if (at) at = strstr(at + 1, key);
  while (at && field-- > 0) at = strchr(at + 1, ' ');
  return at ? strtoull(at, NULL, 10) : 0;
}

static struct counts counts(void) {
  struct counts now = {.forks = value_of(text_of(KIT_CGROUP "/pids.events"), "max")};
  const char *network = text_of("/proc/net/snmp");
  now.unrouted = field_of(network, "Ip: ", OUT_NO_ROUTES);
  now.unheard = field_of(network, "Udp: ", NO_PORTS);
  now.unrouted += value_of(text_of("/proc/net/snmp6"), "Ip6OutNoRoutes");
  return now;
}

void watch_run(void) {
  before = counts();
  exec_failure = mmap(NULL, sizeof *exec_failure, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (exec_failure == MAP_FAILED) exec_failure = NULL;
}

void note_exec_failure(const char *name, int error) {
  if (!exec_failure) return;
  char found[MAX_NAME], *needs = exec_failure->needs;
  if (find_program(name, found)) {
    strcpy(exec_failure->file, found);
    for (int i = 0; error == ENOENT && i < MAX_DEPTH && interpreter_of(found, needs); i++) {
      if (access(needs, F_OK)) break;
      strcpy(found, needs);
      *needs = 0;
    }
    size_t length = strlen(needs);
    if (length && needs[length - 1] == '\r') exec_failure->ends_in_cr = true;
  }
  exec_failure->error = error;
}

void note_directory_failure(int error) {
  if (exec_failure) exec_failure->directory = error;
}

static void say_path(int to, const char *key, char *path) {
  for (char *c = path; *c; c++)
    if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
  dprintf(to, "%s %s\n", key, path);
}

static void say_space(int to, const char *path) {
  struct statvfs disk;
  if (statvfs(KIT "/scratch", &disk) == 0)
    dprintf(to, "disk %llu %llu\ninodes %llu %llu\n", (number)disk.f_bavail * disk.f_frsize,
            (number)disk.f_blocks * disk.f_frsize, (number)disk.f_favail, (number)disk.f_files);
  if (statvfs(path, &disk) == 0)
    dprintf(to, "shm %llu %llu\n", (number)disk.f_bavail * disk.f_frsize,
            (number)disk.f_blocks * disk.f_frsize);
}

static void say_limits(int to, const char *cgroup) {
  char path[256];
  snprintf(path, sizeof path, "%s/memory.events", cgroup);
  dprintf(to, "oom %llu\n", value_of(text_of(path), "oom_kill"));
  snprintf(path, sizeof path, "%s/memory.peak", cgroup);
  number most = strtoull(text_of(path), NULL, 10);
  number limit = strtoull(text_of(KIT_CGROUP "/memory.max"), NULL, 10);
  number shared = value_of(text_of(KIT_CGROUP "/memory.stat"), "shmem");
  dprintf(to, "memory %llu %llu %llu\n", most, limit, shared);
  struct counts now = counts();
  number processes = strtoull(text_of(KIT_CGROUP "/pids.max"), NULL, 10);
  dprintf(to, "forks %llu %llu\n", now.forks - before.forks, processes);
  dprintf(to, "unrouted %llu\n", now.unrouted - before.unrouted);
  dprintf(to, "unheard %llu\n", now.unheard - before.unheard);
}

// Records share few places, so that a host that never asks fills nothing: a later one may be there.
static bool place_of(const char *id, char path[64]) {
  size_t length = strlen(id);
  if (length < 4 || length > 64 || id[strspn(id, "0123456789abcdef-")]) return errno = EINVAL, false;
  snprintf(path, 64, RECORDS "/%s", id + length - 2);
  return true;
}

void leave_record(const struct job *job, int status, const char *cgroup) {
  char path[64], script[MAX_NAME];
  if (status == 0 || !place_of(job->id, path)) return;
  mkdir(RECORDS, 0700);
  int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (to < 0) return;
  dprintf(to, "id %s\n", job->id);
  if (WIFEXITED(status)) dprintf(to, "exit %d\n", WEXITSTATUS(status));
  if (WIFSIGNALED(status)) dprintf(to, "signal %d\n", WTERMSIG(status));
  if (exec_failure && exec_failure->error) {
    dprintf(to, "exec %d\n", exec_failure->error);
    if (*exec_failure->file) say_path(to, "file", exec_failure->file);
    if (*exec_failure->needs)
      say_path(to, exec_failure->ends_in_cr ? "crlf" : "needs", exec_failure->needs);
  }
  if (WIFEXITED(status) && !(exec_failure && exec_failure->error) &&
      names_crlf_script(job, script))
    say_path(to, "crlf", script);
  if (exec_failure && exec_failure->directory)
    dprintf(to, "directory %d\n", exec_failure->directory);
  say_limits(to, cgroup);
  say_space(to, "/dev/shm");
  close(to);
}

// The names, with spaces between, of programs that are there for whoever runs something.
static void say_programs(char *names) {
  char found[MAX_NAME];
  base_environment();
  dprintf(1, "have");
  for (char *name = strtok(names, " "); name; name = strtok(NULL, " "))
    if (!strchr(name, '/') && find_program(name, found)) dprintf(1, " %s", name);
  dprintf(1, "\n");
}

int why(const char *asked) {
  char path[64], wanted[80], words[MAX_ASKED];
  enter_image();
  if (snprintf(words, sizeof words, "%s", asked) >= (int)sizeof words) fail("words");
  char *names = strchr(words, ' ');
  if (names) *names++ = 0;
  if (!place_of(words, path)) fail("id");
  const char *text = text_of(path);
  int length = snprintf(wanted, sizeof wanted, "id %s\n", words);
  if (strncmp(text, wanted, (size_t)length) != 0) text = wanted; // another run's, or none
  if (!write_exactly(1, text, strlen(text))) return FAILED;
  if (names) say_programs(names);
  return 0;
}
