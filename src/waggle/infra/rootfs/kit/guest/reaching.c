// SPDX-License-Identifier: Apache-2.0
// PID 1 keeps `reach` running, which gives programs a network, and tells it of what the host sends.
// Whoever kills it has no network for an instant, and who does so again and again for a second.
#include "reaching.h"
#include "waggle.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define OBEYED_MS 3000
#define STARTS 32 // at once; then one a second

static pid_t pid; // 0: it does not run
static int wire = -1;
static bool is_hopeless;
static long next; // second from which on all may be started at once again

static void become_reach(int end) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (dup2(end, REACH_SOCKET) < 0 || fcntl(REACH_SOCKET, F_SETFD, 0) || chroot(KIT) || chdir("/"))
    _exit(127);
  execle("/bin/reach", "reach", NULL, (char *[]){NULL});
  _exit(127);
}

long keep_reaching(void) {
  int ends[2];
  if (pid != 0 || is_hopeless) return -1;
  long now = seconds();
  if (next < now) next = now;
  if (next >= now + STARTS) return 1;
  next++;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return 1;
  pid = fork();
  if (pid == 0) become_reach(ends[1]);
  close(ends[1]);
  wire = ends[0];
  if (pid > 0) return -1;
  close(wire);
  wire = -1, pid = 0;
  return 1;
}

void reach_ended(pid_t ended, int status) {
  if (ended != pid || pid == 0) return;
  close(wire);
  wire = -1, pid = 0;
  is_hopeless = WIFEXITED(status) && WEXITSTATUS(status) == CANNOT;
}

// Answers to earlier ones, whose time was over, are passed over.
void reach_anew(void) {
  static char number;
  char answer;
  keep_reaching();
  if (wire < 0 || send(wire, &(char){++number}, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) return;
  struct pollfd wait_for = {.fd = wire, .events = POLLIN};
  while (poll(&wait_for, 1, OBEYED_MS) == 1 && recv(wire, &answer, 1, MSG_DONTWAIT) == 1)
    if (answer == number) return;
}
