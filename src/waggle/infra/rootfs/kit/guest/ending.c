// SPDX-License-Identifier: Apache-2.0
// The end of the machine, with its disk kept for the next one. The host asks for it over the port
// that PID 1 holds (renew.c), root in the machine with a SIGTERM or SIGUSR2 to PID 1, as busybox has
// it. Programs get a SIGTERM and some time, then all is killed, written and made read-only. Runs in
// PID 1, in the image's root, and starts nothing: a machine that is out of processes or memory ends,
// too.
#include "channels.h"
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_MS 5000
#define MAX_MS 60000
#define KILLED_MS 2000 // what hangs in the kernel does not keep the disk from being written
#define PAUSE_MS 10
#define DEPTH 16 // directories that are open at once

static volatile sig_atomic_t is_asked = 0;
static long grace = -1; // milliseconds that the host gives; -1: it has not asked

static void on_term(int signal) { (void)signal, is_asked = 1; } // interrupts ppoll

void expect_end(sigset_t *blocked) {
  sigaddset(blocked, SIGTERM), sigaddset(blocked, SIGUSR2);
  signal(SIGTERM, on_term), signal(SIGUSR2, on_term);
}

bool plan_end(const char *data, size_t size) {
  uint32_t wanted;
  if (size != sizeof wanted) return false;
  memcpy(&wanted, data, sizeof wanted);
  grace = wanted < MAX_MS ? (long)wanted : MAX_MS;
  return true;
}

bool end_is_due(void) { return is_asked || grace >= 0; }

// What is stopped ends, too.
static int end_directory(const char *path, const struct stat *about, int kind, struct FTW *place) {
  char file[512];
  int pid;
  (void)about, (void)place;
  bool fits = snprintf(file, sizeof file, "%s/cgroup.procs", path) < (int)sizeof file;
  if (kind != FTW_D || !fits) return 0;
  FILE *processes = fopen(file, "re");
  while (processes && fscanf(processes, "%d", &pid) == 1)
    if (pid > 1 && kill(pid, SIGTERM) == 0) kill(pid, SIGCONT);
  if (processes) fclose(processes);
  return 0;
}

// The programs of all runs; the kit's own processes stay, and with them the network.
static void ask_programs(void) {
  if (nftw(KIT_CGROUP, end_directory, DEPTH, FTW_PHYS)) complain(KIT_CGROUP);
}

static bool has_programs(void) {
  char text[128] = "";
  int fd = open(KIT_CGROUP "/cgroup.events", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  return size > 0 && strstr(text, "populated 1");
}

// Reap what ends; false once there is no child.
static bool reap_all(void) {
  pid_t ended;
  while ((ended = waitpid(-1, NULL, WNOHANG)) > 0) continue;
  return ended == 0;
}

static void wait_until(long long end, bool (*going)(void)) {
  while (reap_all(), going() && milliseconds() < end)
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000l}, NULL);
}

static void kill_all(void) {
  write_text(KIT_CGROUP "/cgroup.kill", "1"); // all at once: none can be made meanwhile
  kill(-1, SIGKILL);
  wait_until(milliseconds() + KILLED_MS, reap_all);
}

static void close_disk(void) {
  sync();
  if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL)) complain("/");
  if (mount(NULL, KIT "/scratch", NULL, MS_REMOUNT | MS_RDONLY, NULL)) complain("scratch");
  sync();
}

void end_machine(void) {
  long given = grace >= 0 ? grace : DEFAULT_MS;
  dprintf(1, "waggle: ending\n");
  pass_console();
  if (given > 0 && has_programs()) {
    ask_programs();
    wait_until(milliseconds() + given, has_programs);
  }
  kill_all();
  close_disk();
  dprintf(1, "waggle: ended\n");
  close_console();
  reboot(RB_AUTOBOOT); // ends the VMM
  for (;;) pause();
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *place) {
  (void)about, (void)kind;
  if (place->level > 0 && remove(path)) complain(path);
  return 0;
}

// Before the layers are mounted. What the image has in /run is there again.
void forget_last_life(void) {
  static const char *const places[] = {"/scratch/jobs", "/scratch/upper/run"};
  for (size_t i = 0; i < LENGTH(places); i++)
    if (nftw(places[i], remove_entry, DEPTH, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
      complain(places[i]);
}
