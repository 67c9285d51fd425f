// SPDX-License-Identifier: Apache-2.0
// The guest agent and its channel to the host. PID 1 opens the virtio port once and for good:
// libkrun ends the machine when a port is opened a second time. So each agent is given a socket,
// and the process that starts it carries bytes between the two.
#include "waggle.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PORT_NAME "org.qemu.guest_agent.0"
#define FIRST_INHERITED 3 // where sd_listen_fds(3) has a service expect its socket

static int port = -1;

// The agent accepts one caller on the socket that it inherits, and ends with the relay.
static void become_agent(int listener) {
  char pid[16];
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  setenv("LISTEN_PID", pid, 1);
  setenv("LISTEN_FDS", "1", 1);
  if (dup2(listener, FIRST_INHERITED) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL)) _exit(127);
  execl("/bin/qemu-ga", "qemu-ga", "-t", "/run", NULL);
  _exit(127);
}

// Its only caller: the name is gone before anything else in the guest could use it.
static int call(int listener) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/agent"};
  int caller = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(address.sun_path);
  umask(0077);
  bool called = caller >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
                listen(listener, 1) == 0 &&
                connect(caller, (struct sockaddr *)&address, sizeof address) == 0;
  unlink(address.sun_path);
  return called ? caller : -1;
}

// Carry bytes until either end closes.
static void relay(int agent) {
  struct pollfd ends[2] = {{.fd = port, .events = POLLIN}, {.fd = agent, .events = POLLIN}};
  char data[4096];
  while (poll(ends, 2, -1) > 0)
    for (int i = 0; i < 2; i++) {
      if (!ends[i].revents) continue;
      ssize_t size = read(ends[i].fd, data, sizeof data);
      if (size <= 0 || !write_exactly(ends[1 - i].fd, data, (size_t)size)) return;
    }
}

bool has_agent_port(void) {
  if (port < 0) port = open_port(PORT_NAME);
  return port >= 0;
}

void serve_agent(void) {
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int agent = listener < 0 ? -1 : call(listener);
  if (agent < 0) _exit(127);
  if (fork() == 0) become_agent(listener);
  close(listener);
  relay(agent);
  _exit(0);
}
