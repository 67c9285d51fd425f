// SPDX-License-Identifier: Apache-2.0
// Programs that a run has left behind: who they are, and their end. Of each process tree only the
// root counts, a process whose parent is not of the same run. Each is a line "RUN PID COMMAND", and
// a last line "all N" has their number, since not all may be shown.
#include "job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_COMMAND 200
#define MAX_PROCESSES 2048 // more than a machine may have
#define MAX_LISTED 100

static int processes_of(const char *id, pid_t pids[MAX_PROCESSES]) {
  char path[160];
  snprintf(path, sizeof path, KIT_CGROUP "/%.64s/cgroup.procs", id);
  FILE *file = fopen(path, "re");
  int count = 0;
  while (file && count < MAX_PROCESSES && fscanf(file, "%d", &pids[count]) == 1) count++;
  if (file) fclose(file);
  return count;
}

static ssize_t read_of(pid_t pid, const char *name, char *text, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
  if (fd >= 0) close(fd);
  text[got > 0 ? got : 0] = 0;
  return got;
}

// 0 for what has ended, or is only waiting to be reaped.
static pid_t parent_of(pid_t pid) {
  char text[512], state = 'Z';
  int parent = 0;
  read_of(pid, "stat", text, sizeof text);
  char *end = strrchr(text, ')'); // its name may have any character
  if (!end || sscanf(end + 1, " %c %d", &state, &parent) != 2 || state == 'Z') return 0;
  return parent;
}

static bool has(const pid_t *pids, int count, pid_t wanted) {
  for (int i = 0; i < count; i++)
    if (pids[i] == wanted) return true;
  return false;
}

static void say_command(int to, const char *id, pid_t pid) {
  char text[MAX_COMMAND + 1];
  ssize_t size = read_of(pid, "cmdline", text, sizeof text);
  if (size <= 0) size = read_of(pid, "comm", text, sizeof text); // it may have none
  while (size > 0 && (text[size - 1] == 0 || text[size - 1] == '\n')) size--;
  for (ssize_t i = 0; i < size; i++)
    if ((unsigned char)text[i] <= ' ' || text[i] == 127) text[i] = ' ';
  dprintf(to, "%s %d %.*s\n", id, (int)pid, size > 0 ? (int)size : 0, text);
}

static int say_run(int to, const char *id, int most) {
  static pid_t pids[MAX_PROCESSES];
  int count = processes_of(id, pids), said = 0;
  for (int i = 0; i < count; i++) {
    pid_t parent = parent_of(pids[i]);
    if (parent == 0 || has(pids, count, parent)) continue;
    if (said++ < most) say_command(to, id, pids[i]);
  }
  return said;
}

void list_left(int to, const char *id) {
  dprintf(to, "all %d\n", say_run(to, id, MAX_LISTED_AT_END));
}

int programs(void) {
  int count = 0;
  enter_image();
  DIR *runs = opendir(KIT_CGROUP);
  struct dirent *entry;
  while (runs && (entry = readdir(runs)))
    // What belongs to a job that runs is not left.
    if (entry->d_type == DT_DIR && is_id(entry->d_name) && !is_running(entry->d_name))
      count += say_run(1, entry->d_name, count < MAX_LISTED ? MAX_LISTED - count : 0);
  if (runs) closedir(runs);
  dprintf(1, "all %d\n", count);
  return 0;
}

// The run that a process is of; false for one that is of none, as the kit's own.
static bool run_of(pid_t pid, char id[65]) {
  char text[512];
  read_of(pid, "cgroup", text, sizeof text);
  char *at = strstr(text, "::/"); // what follows is seen from where runs are (cgroups.c)
  return at && sscanf(at, "::/%64[0-9a-f-]", id) == 1 && is_id(id);
}

// The process and all that descend from it. They may go on to start others meanwhile, so what is
// to end is stopped first.
int end_program(const char *text) {
  static pid_t pids[MAX_PROCESSES], doomed[MAX_PROCESSES];
  char *end, id[65];
  long wanted = strtol(text, &end, 10);
  if (*end || wanted <= 1 || wanted > 1 << 22) errno = EINVAL, fail("pid");
  enter_image();
  if (!run_of((pid_t)wanted, id)) return 1;
  int count = 0;
  doomed[count++] = (pid_t)wanted;
  kill((pid_t)wanted, SIGSTOP);
  for (int before = 0; before < count && count < MAX_PROCESSES;) {
    before = count;
    int all = processes_of(id, pids);
    for (int i = 0; i < all && count < MAX_PROCESSES; i++) {
      if (has(doomed, count, pids[i]) || !has(doomed, count, parent_of(pids[i]))) continue;
      kill(pids[i], SIGSTOP);
      doomed[count++] = pids[i];
    }
  }
  for (int i = 0; i < count; i++) kill(doomed[i], SIGKILL);
  return 0;
}
