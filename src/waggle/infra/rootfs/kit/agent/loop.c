// SPDX-License-Identifier: Apache-2.0
// The first process at work: it waits without a timer until the host says something, a child has
// something to say, or the time of one is over.
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define STEPS 64   // before signals, deadlines and children have their turn, whatever the host sends
#define ROOM 49152 // of the bytes to the host, for what one request leads to at once

static int events = -1, signals = -1;
static char sources; // its address stands for the socket over which channels come

void watch(int fd, void *whose) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = whose};
  if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &event)) perror("waggle-agent: epoll_ctl"), _exit(1);
}

void unwatch(int fd) { epoll_ctl(events, EPOLL_CTL_DEL, fd, NULL); }

static void open_loop(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD), sigaddset(&set, SIGTERM), sigaddset(&set, SIGINT);
  sigprocmask(SIG_SETMASK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  events = epoll_create1(EPOLL_CLOEXEC);
  signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  watch(signals, &signals);
}

// True when the agent is to end.
static bool take_signals(void) {
  struct signalfd_siginfo about;
  bool is_over = false;
  while (read(signals, &about, sizeof about) == sizeof about)
    if (about.ssi_signo == SIGCHLD) reap_children();
    else is_over = true;
  return is_over;
}

// One piece of work; false when there is none. Requests wait while an answer is under way, so that
// one of this process has its place after it.
static bool step(void) {
  char *line, *place;
  size_t size;
  bool is_too_long, did = flush_out();
  did |= relay();
  if (is_in_line() || room_out(&place) < ROOM) return did;
  if (!(line = next_line(&size, &is_too_long))) return read_in() || did;
  if (is_too_long) refuse_line(TOO_LARGE, "The line is too long.");
  else take_request(line, size);
  return true;
}

static int milliseconds(void) {
  int64_t next = next_deadline();
  if (next == INT64_MAX) return -1;
  int64_t left = (next - monotonic()) / 1000000 + 1;
  return left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

int serve(int channel, int source) {
  struct epoll_event found[16];
  open_loop();
  if (source >= 0) watch(source, &sources), await_channels(source);
  else use_channel(channel);
  open_audit();
  for (;;) {
    bool is_busy = true;
    for (int i = 0; is_busy && i < STEPS; i++) is_busy = step();
    int count = epoll_wait(events, found, LENGTH(found), is_busy ? 0 : milliseconds());
    if (count < 0 && errno != EINTR) return perror("waggle-agent: epoll_wait"), 1;
    bool is_new = false; // what else has happened was to the channel before
    for (int i = 0; i < count; i++) {
      void *whose = found[i].data.ptr;
      if (!whose && !channel_event(found[i].events)) return 0;
      if (whose == &signals && take_signals()) return 0;
      if (whose == &sources) is_new = true;
      else if (whose && whose != &signals) ((struct child *)whose)->is_readable = true;
    }
    if (is_new && !take_channels()) return 0;
    end_late_children();
  }
}
