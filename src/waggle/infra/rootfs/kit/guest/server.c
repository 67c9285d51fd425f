// SPDX-License-Identifier: Apache-2.0
// The SSH server's processes: a dropbear per connection, as inetd did. Each is started first and
// then given its connection over a socket (preload.c). So one is always ready for the next client,
// which does not wait until a program is loaded, also after the machine was frozen. The one that waits
// has read neither keys nor random bytes yet.
#include "waggle.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CONNECTIONS 32
#define END_TRIES 1000
#define END_PAUSE_NS 1000000
#define REST 2 // seconds from a connection to the start of another spare: the client comes first

static pid_t dropbears[MAX_CONNECTIONS]; // 0: a free slot
static struct {
  pid_t pid; // 0: there is none
  int wire;
  bool is_ready;
  time_t due; // when one is to be started
} spare;

static pid_t *slot_of(pid_t pid) {
  for (int i = 0; i < MAX_CONNECTIONS; i++)
    if (dropbears[i] == pid) return &dropbears[i];
  return NULL;
}

static void become_dropbear(int wire) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (dup2(wire, 0) < 0 || chroot(KIT) || chdir("/")) _exit(127);
  static char *const environment[] = {"LD_PRELOAD=/lib/preload.so", NULL};
  execle("/bin/dropbear", "dropbear", "-i", "-E", "-s", "-r", "/run/identity/host_key", "-D",
         "/run/identity", "-W", "1000000", NULL, environment);
  _exit(127);
}

static void start_spare(void) {
  int wire[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, wire)) return;
  pid_t pid = fork();
  if (pid == 0) become_dropbear(wire[1]);
  close(wire[1]);
  if (pid < 0) close(wire[0]);
  else spare.pid = pid, spare.wire = wire[0], spare.is_ready = false;
}

bool keep_spare(void) {
  if (spare.pid == 0 && seconds() >= spare.due) {
    start_spare();
    spare.due = seconds() + REST; // if it fails, or somebody kills it
  }
  return spare.pid != 0;
}

// A spare that was stopped would keep its client waiting.
static void end_stopped_spare(void) {
  int status = 0;
  if (spare.pid == 0 || waitpid(spare.pid, &status, WNOHANG | WUNTRACED) == 0) return;
  if (WIFSTOPPED(status)) kill(spare.pid, SIGKILL);
  server_ended(spare.pid);
}

// A spare that was killed takes nothing, and the next one is asked.
void serve(int connection) {
  pid_t *slot = slot_of(0);
  end_stopped_spare();
  for (int tries = 0; slot && tries < 2; tries++) {
    if (spare.pid == 0) start_spare();
    if (spare.pid == 0) return;
    bool taken = hand_over(spare.wire, connection);
    if (taken) *slot = spare.pid;
    close(spare.wire);
    spare.pid = 0;
    spare.due = seconds() + REST;
    if (taken) return;
  }
}

void server_ended(pid_t pid) {
  pid_t *slot = slot_of(pid);
  if (slot) *slot = 0;
  if (pid != spare.pid) return;
  close(spare.wire);
  spare.pid = 0;
}

bool server_is_settled(void) {
  char byte;
  if (spare.pid == 0) start_spare();
  else if (recv(spare.wire, &byte, 1, MSG_DONTWAIT) == 1) spare.is_ready = true;
  for (int i = 0; i < MAX_CONNECTIONS; i++)
    if (dropbears[i] != 0) return false;
  return spare.pid != 0 && spare.is_ready;
}

static bool has_connections(void) {
  bool any = false;
  for (int i = 0; i < MAX_CONNECTIONS; i++) {
    if (dropbears[i] != 0 && waitpid(dropbears[i], NULL, WNOHANG) != 0) dropbears[i] = 0;
    any |= dropbears[i] != 0;
  }
  return any;
}

// Jobs belong to no connection, and go on.
void hang_up(void) {
  for (int i = 0; i < MAX_CONNECTIONS; i++)
    if (dropbears[i] != 0) kill(dropbears[i], SIGKILL);
  for (int i = 0; i < END_TRIES && has_connections(); i++)
    nanosleep(&(struct timespec){.tv_nsec = END_PAUSE_NS}, NULL);
}
