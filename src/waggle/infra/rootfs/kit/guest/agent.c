// SPDX-License-Identifier: Apache-2.0
// The guest agent (kit/agent) and its channel to the host (ports.c), which PID 1 hands to each agent
// that it starts. Over vsock that is a connection, and an agent goes on with the next one: the copy of
// a frozen machine need not load a program for the first. What the agent may do is in the kit, and in
// what the host says at the start: PID 1 keeps both where no file of the guest's can replace them.
#include "channels.h"
#include "waggle.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROGRAM KIT "/bin/waggle-agent"
#define KIT_POLICY KIT "/etc/agent.json"
#define CHANNELS 3 // of the agent: its descriptors
#define POLICY 4
#define HOST_POLICY 5
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

static struct channel channel = {
    .name = "org.waggle.agent.0", .port = AGENT_PORT, .listener = -1, .wire = -1};
static int program = -1, policy = -1, host_policy = -1;
static pid_t agent = 0;
static int channels = -1; // a socket to the agent that lives, over which it gets them

bool narrow_agent(const char *data, size_t size) {
  int file = memfd_create("policy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  bool good = file >= 0 && write_exactly(file, data, size) && fcntl(file, F_ADD_SEALS, SEALS) == 0;
  if (!good) return complain("agent policy"), false;
  if (host_policy >= 0) close(host_policy);
  return host_policy = file, true;
}

static bool is_ready(void) {
  open_channel(&channel);
  if (program < 0) program = open(PROGRAM, O_RDONLY | O_CLOEXEC);
  if (policy < 0) policy = open(KIT_POLICY, O_RDONLY | O_CLOEXEC);
  return channel.wire >= 0 && program >= 0 && policy >= 0;
}

// Out of the way of those that the agent gets.
static int above(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 16); }

__attribute__((noreturn)) static void become_agent(int source) {
  char *const argv[] = {"waggle-agent", "--channels=3", "--init=busybox", "--policy=/proc/self/fd/4",
                        host_policy < 0 ? NULL : "--policy=/proc/self/fd/5", NULL};
  char *const environment[] = {NULL};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int from = above(program), given = above(source);
  int rules = above(policy), narrower = above(host_policy);
  if (from < 0 || dup2(given, CHANNELS) < 0 || dup2(rules, POLICY) < 0) _exit(127);
  if (host_policy >= 0 && dup2(narrower, HOST_POLICY) < 0) _exit(127);
  fexecve(from, argv, environment);
  _exit(127);
}

bool keep_agent(void) {
  int ends[2];
  if (agent > 0 || !is_ready()) return true;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return false;
  agent = fork();
  if (agent == 0) become_agent(ends[1]);
  close(ends[1]);
  if (agent < 0) return agent = 0, close(ends[0]), false;
  channels = ends[0];
  return hand_over(channels, channel.wire) || (restart_agent(), false);
}

bool has_agent(void) { return agent > 0 || channel.wire < 0; }

void agent_ended(pid_t pid) {
  if (agent == 0 || pid != agent) return;
  agent = 0;
  close(channels);
}

void restart_agent(void) {
  if (agent > 0) kill(agent, SIGKILL);
}

void watch_agent(struct pollfd at[2]) { watch_channel(&channel, false, at); }

// An agent that has read nothing for long takes no more.
bool serve_agent(const struct pollfd at[2]) {
  if (!channel_changes(&channel, at)) return false;
  if (agent > 0 && (channel.wire < 0 || hand_over(channels, channel.wire))) return false;
  restart_agent();
  return true;
}
