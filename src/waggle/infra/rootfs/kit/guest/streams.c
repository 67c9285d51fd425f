// SPDX-License-Identifier: Apache-2.0
// What a program prints, through pipes or a terminal that belong to the user it runs as, on its way
// to the SSH server (run.c) or into a job's files (shim.c). Only the kit reads them, so a call ends
// when its program does: what that leaves running holds nothing of the call, and goes on writing
// without anybody to read.
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ALL ((size_t)1 << 30)
#define PIECE (64u << 10)

static struct flow {
  int from, into; // the pipe that the program has; `into` is closed here once it has started
  int to;         // the SSH server's, or -1 for nowhere
  bool is_full;   // the SSH server takes no more now
  size_t most;    // bytes to pass on still
} flows[MAX_STREAMS];

static int streams;
static take_output *take; // where output goes instead of to the SSH server

static void add(int from, int into) {
  flows[streams] = (struct flow){.from = from, .into = into, .to = streams + 1, .most = ALL};
  streams++;
}

bool open_streams(const struct account *account, int count, take_output *into) {
  take = into;
  while (streams < count) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) || fchown(ends[1], account->uid, account->gid)) return false;
    add(ends[0], ends[1]);
  }
  return true;
}

bool open_terminal(const struct account *account, const struct winsize *size, take_output *into) {
  int primary = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  char *name = primary < 0 || grantpt(primary) || unlockpt(primary) ? NULL : ptsname(primary);
  int secondary = name ? open(name, O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
  if (secondary < 0 || fchown(secondary, account->uid, (gid_t)-1)) return false;
  ioctl(primary, TIOCSWINSZ, size);
  take = into;
  add(primary, secondary);
  return true;
}

int terminal(void) { return flows[0].from; }

bool use_streams(void) {
  for (int i = 0; i < streams; i++)
    if (dup2(flows[i].into, i + 1) < 0) return false;
  return true;
}

bool use_terminal(void) {
  int fd = flows[0].into;
  return ioctl(fd, TIOCSCTTY, 0) == 0 && dup2(fd, 0) == 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2;
}

void say_on_stderr(void) { dup2(flows[streams > 1].into, 2); }

// A terminal that no program had open would be at its end, though one may still open it again.
void share_streams(void) {
  for (int i = 0; i < streams; i++)
    if (!isatty(flows[i].from)) close(flows[i].into);
}

static void finish(struct flow *flow) { close(flow->from), flow->from = -1; }

static void read_into(struct flow *flow, take_output *into) {
  static char data[PIECE];
  ssize_t size = read(flow->from, data, flow->most < sizeof data ? flow->most : sizeof data);
  if (size <= 0 && !(size < 0 && (errno == EINTR || errno == EAGAIN))) return finish(flow);
  if (size <= 0) return;
  if (flow->most != ALL) flow->most -= (size_t)size;
  if (into) into((int)(flow - flows), data, (size_t)size);
}

// Without waiting. Nobody may be there to read it any more, which is no reason for a program's end.
static void pass(struct flow *flow) {
  if (flow->to < 0 || take) return read_into(flow, flow->to < 0 ? NULL : take);
  ssize_t size = splice(flow->from, NULL, flow->to, NULL, flow->most, SPLICE_F_NONBLOCK);
  if (size > 0) {
    if (flow->most != ALL) flow->most -= (size_t)size;
  } else if (size < 0 && errno == EAGAIN) {
    flow->is_full = true;
  } else if (size < 0 && errno != EINTR) {
    flow->to = -1;
  } else if (size == 0) {
    finish(flow);
  }
}

int pass_streams(struct pollfd *others, int count, int timeout) {
  struct pollfd waits[MAX_STREAMS + MAX_OTHERS];
  for (int i = 0; i < streams; i++) {
    struct flow *flow = &flows[i];
    waits[i].fd = flow->most == 0 ? -1 : flow->is_full ? flow->to : flow->from;
    waits[i].events = flow->is_full ? POLLOUT : POLLIN;
  }
  memcpy(waits + streams, others, (size_t)count * sizeof *others);
  int ready = poll(waits, (nfds_t)(streams + count), timeout);
  for (int i = 0; ready > 0 && i < streams; i++) {
    if (!waits[i].revents) continue;
    if (i == DISPLAY_STREAM) pass_written(i); // its place is behind that
    if (flows[i].is_full) flows[i].is_full = false;
    else pass(&flows[i]);
  }
  for (int i = 0; i < count; i++) others[i].revents = ready > 0 ? waits[streams + i].revents : 0;
  return ready;
}

static size_t waiting(const struct flow *flow) {
  int size = 0;
  return flow->from < 0 || flow->to < 0 || ioctl(flow->from, FIONREAD, &size) ? 0 : (size_t)size;
}

void pass_written(int count) {
  for (int i = 0; i < count && i < streams; i++)
    for (size_t left = waiting(&flows[i]); left > 0 && flows[i].from >= 0;) {
      flows[i].most = left;
      pass(&flows[i]);
      left = flows[i].most < left ? flows[i].most : 0;
      flows[i].most = ALL;
    }
}

bool limit_streams(void) {
  bool is_more = false;
  for (int i = 0; i < streams; i++) {
    size_t size = waiting(&flows[i]);
    if (size < flows[i].most) flows[i].most = size;
    is_more |= flows[i].most > 0;
  }
  return is_more;
}

bool has_streams(void) {
  for (int i = 0; i < streams; i++)
    if (flows[i].from >= 0) return true;
  return false;
}

void abandon_streams(void) {
  for (int i = 0; i < streams; i++)
    flows[i].to = -1, flows[i].most = ALL, flows[i].is_full = false;
}
