// SPDX-License-Identifier: Apache-2.0
// PID 1 at work: it is the SSH listener itself (server.c), so there is no server that a guest could
// kill; it keeps the guest agent and the way to the network alive, and reaps every orphan.
#include "channels.h"
#include "reaching.h"
#include "waggle.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_TRIES 1000
#define PAUSE_NS 10000000

static void reap(void) {
  pid_t ended;
  int status;
  while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
    server_ended(ended);
    reach_ended(ended, status);
    agent_ended(ended);
  }
}

void settle(void) {
  sync(); // what is written later is written by every copy
  for (int i = 0; i < SETTLE_TRIES; i++) {
    reap();
    if (server_is_settled()) return;
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
  }
}

static void on_child(int signal) { (void)signal; } // interrupts ppoll, where alone it is unblocked

// Serve what waits at one door. Code inside the guest has no business with the SSH server.
static void answer(const struct pollfd *door) {
  int connection = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC);
  if (connection < 0) return;
  if (from_outside(connection)) serve(connection);
  close(connection);
}

// Where in the list to poll who has places.
enum { DOOR, RENEWAL = DOOR + DOORS, AGENT = RENEWAL + 2, CONSOLE = AGENT + 2,
       PLACES = CONSOLE + CONSOLE_PLACES };

// Neither PID 1 nor what it starts, SSH and the agent, is what the kernel kills for memory. What
// runs for a user gives that up (image.c).
static void be_spared(void) { write_text("/proc/self/oom_score_adj", "-1000"); }

void supervise(void) {
  be_spared();
  sigset_t child, waiting;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  expect_end(&child);
  sigprocmask(SIG_BLOCK, &child, &waiting);
  signal(SIGCHLD, on_child);
  signal(SIGPIPE, on_child); // not SIG_IGN: programs would have that, too
  struct pollfd at[PLACES];
  open_doors(&at[DOOR]);
  keep_reaching();
  watch_renewal(&at[RENEWAL]);
  keep_agent();
  dprintf(1, "waggle: ready\n");
  time_t due = 0; // of the next try to start an agent: one that ends at once costs little
  while (!end_is_due()) {
    reap();
    time_t now = seconds();
    if (!has_agent() && now >= due) due = now + 1, keep_agent();
    pass_console();
    watch_renewal(&at[RENEWAL]), watch_agent(&at[AGENT]);
    bool is_soon = watch_console(&at[CONSOLE]) | (keep_reaching() >= 0) | !has_agent() | !keep_spare();
    if (ppoll(at, PLACES, is_soon ? &(struct timespec){.tv_sec = 1} : NULL, &waiting) < 0) continue;
    serve_renewal(&at[RENEWAL]);
    if (serve_agent(&at[AGENT])) due = 0;
    for (int i = DOOR; i < DOOR + DOORS; i++)
      if (at[i].revents) answer(&at[i]);
    serve_console(&at[CONSOLE]);
  }
  end_machine();
}
