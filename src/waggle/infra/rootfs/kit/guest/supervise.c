// SPDX-License-Identifier: Apache-2.0
// PID 1 at work: it is the SSH listener itself (a dropbear per connection, as inetd did), so there
// is no server that a guest could kill; it keeps the guest agent alive and reaps every orphan.
#include "waggle.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 32
#define AGENT_DELAY 2 // seconds: the host's first login has this one processor to itself

static pid_t agent = 0; // the process between it and the host
static pid_t dropbears[MAX_CONNECTIONS]; // 0: a free slot

static void enter_kit(void) {
  if (chroot(KIT) || chdir("/")) _exit(127);
}

static void unblock_signals(void) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static time_t seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

static void start_agent(void) {
  if (!has_agent_port()) return;
  agent = fork();
  if (agent < 0) agent = 0;
  if (agent != 0) return;
  unblock_signals();
  enter_kit();
  serve_agent();
}

static pid_t *slot_of(pid_t pid) {
  for (int i = 0; i < MAX_CONNECTIONS; i++)
    if (dropbears[i] == pid) return &dropbears[i];
  return NULL;
}

static void serve(int connection, pid_t *slot) {
  *slot = fork();
  if (*slot == 0) {
    unblock_signals();
    enter_kit();
    dup2(connection, 0);
    dup2(connection, 1);
    static char *const environment[] = {"LD_PRELOAD=/lib/address.so", NULL};
    execle("/bin/dropbear", "dropbear", "-i", "-E", "-s", "-r", "/run/identity/host_key", "-D",
           "/run/identity", "-W", "1000000", NULL, environment);
    _exit(127);
  }
  if (*slot < 0) *slot = 0;
}

static void reap(void) {
  pid_t ended;
  while ((ended = waitpid(-1, NULL, WNOHANG)) > 0) {
    pid_t *slot = slot_of(ended);
    if (slot) *slot = 0;
    if (ended == agent) agent = 0;
  }
}

static void on_child(int signal) { (void)signal; } // interrupts ppoll, where alone it is unblocked

// Serve what waits at one door. Code inside the guest has no business with the SSH server.
static void answer(const struct pollfd *door) {
  int connection = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC);
  if (connection < 0) return;
  pid_t *slot = slot_of(0);
  if (slot && from_outside(connection)) serve(connection, slot);
  close(connection);
}

// Neither PID 1 nor what it starts, SSH and the agent, is what the kernel kills for memory. What
// runs for a user gives that up (image.c).
static void be_spared(void) { write_text("/proc/self/oom_score_adj", "-1000"); }

void supervise(void) {
  be_spared();
  sigset_t child, waiting;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, &waiting);
  signal(SIGCHLD, on_child);
  struct pollfd doors[DOORS + 1];
  open_doors(doors);
  doors[DOORS] = (struct pollfd){.fd = renewal_port(), .events = POLLIN};
  dprintf(1, "waggle: ready\n");
  time_t due = seconds() + AGENT_DELAY; // what the host says until then waits in its channel
  for (;;) {
    reap();
    time_t now = seconds();
    if (agent == 0 && now >= due) due = now + 1, start_agent();
    struct timespec soon = {.tv_sec = 1}, *wait_for = agent == 0 ? &soon : NULL;
    if (ppoll(doors, DOORS + 1, wait_for, &waiting) <= 0) continue;
    if (doors[DOORS].revents & POLLIN) renew();
    else if (doors[DOORS].revents) doors[DOORS].fd = -1; // the host has closed it
    for (int i = 0; i < DOORS; i++)
      if (doors[i].revents) answer(&doors[i]);
  }
}
