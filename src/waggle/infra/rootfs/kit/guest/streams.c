// SPDX-License-Identifier: Apache-2.0
// A program's output on its way to the host, through pipes that belong to the user it runs as. The
// launcher is the only one that writes to the SSH server, so a call ends when its program does:
// what that leaves running holds nothing of the call, and goes on writing without anybody to read.
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define STREAMS 2
#define ALL ((size_t)1 << 30)

static struct flow {
  int from, into; // the pipe that the program has; `into` is closed here once it has started
  int to;         // the SSH server's, or -1 for nowhere
  bool is_full;   // the SSH server takes no more now
  size_t most;    // bytes to pass on still
} flows[STREAMS];

bool open_streams(const struct account *account) {
  for (int i = 0; i < STREAMS; i++) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) || fchown(ends[1], account->uid, account->gid)) return false;
    flows[i] = (struct flow){.from = ends[0], .into = ends[1], .to = i + 1, .most = ALL};
  }
  return true;
}

bool use_streams(void) {
  for (int i = 0; i < STREAMS; i++)
    if (dup2(flows[i].into, i + 1) < 0) return false;
  return true;
}

void share_streams(void) {
  for (int i = 0; i < STREAMS; i++) close(flows[i].into);
}

static void discard(struct flow *flow) {
  static char nothing[16384];
  if (read(flow->from, nothing, sizeof nothing) <= 0) close(flow->from), flow->from = -1;
}

// Without waiting. Nobody may be there to read it any more, which is no reason for a program's end.
static void pass(struct flow *flow) {
  if (flow->to < 0) return discard(flow);
  ssize_t size = splice(flow->from, NULL, flow->to, NULL, flow->most, SPLICE_F_NONBLOCK);
  if (size > 0) {
    if (flow->most != ALL) flow->most -= (size_t)size;
  } else if (size < 0 && errno == EAGAIN) {
    flow->is_full = true;
  } else if (size < 0 && errno != EINTR) {
    flow->to = -1;
  } else if (size == 0) {
    close(flow->from), flow->from = -1;
  }
}

int pass_streams(struct pollfd *other, int timeout) {
  struct pollfd waits[STREAMS + 1] = {*other};
  for (int i = 0; i < STREAMS; i++) {
    struct flow *flow = &flows[i];
    waits[i + 1].fd = flow->most == 0 ? -1 : flow->is_full ? flow->to : flow->from;
    waits[i + 1].events = flow->is_full ? POLLOUT : POLLIN;
  }
  int ready = poll(waits, STREAMS + 1, timeout);
  for (int i = 0; ready > 0 && i < STREAMS; i++) {
    if (!waits[i + 1].revents) continue;
    if (flows[i].is_full) flows[i].is_full = false;
    else pass(&flows[i]);
  }
  other->revents = ready > 0 ? waits[0].revents : 0;
  return ready;
}

bool limit_streams(void) {
  bool is_more = false;
  for (int i = 0; i < STREAMS; i++) {
    int size = 0;
    if (flows[i].from < 0 || flows[i].to < 0 || ioctl(flows[i].from, FIONREAD, &size)) size = 0;
    if ((size_t)size < flows[i].most) flows[i].most = (size_t)size;
    is_more |= flows[i].most > 0;
  }
  return is_more;
}

void abandon_streams(void) {
  for (int i = 0; i < STREAMS; i++)
    flows[i].to = -1, flows[i].most = ALL, flows[i].is_full = false;
}
