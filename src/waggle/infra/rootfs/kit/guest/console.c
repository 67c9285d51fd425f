// SPDX-License-Identifier: Apache-2.0
// The console of a machine that has none: what PID 1 and its children say goes into a pipe, and from
// there over vsock to the host, together with what the kernel complains of. A snapshot breaks that
// connection, and the pipe keeps what is said until there is another; if the host wants none, it is
// lost. Nothing here waits for a host that does not read. With a virtio console there is nothing to do.
#include "channels.h"
#include "vsock.h"
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define DIAL_MS 1000
#define PAUSE_MS 1000 // between two tries to connect
#define TRIES 5       // in a row when there is nothing to say
#define LAST_MS 1000  // for the host to take what is left
#define WORD "waggle.channels=vsock"

static const struct mount_point PROC[] = {
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC}};

static int said = -1, wire = -1, tries;
static char held[4096]; // of what was said, on its way
static size_t held_from, held_size;
static long long dialled; // milliseconds
static bool is_vsock;

bool has_vsock_channels(void) { return is_vsock; }

static bool has_word(const char *path) {
  char line[4096], *rest = line, *word;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
  if (fd >= 0) close(fd);
  line[size > 0 ? size : 0] = 0;
  while ((word = strsep(&rest, " \n")))
    if (strcmp(word, WORD) == 0) return true;
  return false;
}

// Nothing that is opened later is where messages go.
static void open_standard(void) {
  int fd = 0;
  while (fd >= 0 && fd < 3) fd = open("/dev/null", O_RDWR);
  if (fd >= 3) close(fd);
}

static void dial(void) {
  wire = dial_host(CONSOLE_PORT, DIAL_MS);
  dialled = milliseconds();
}

void open_console(void) {
  int ends[2];
  open_standard();
  mount_all(PROC, LENGTH(PROC));
  is_vsock = has_word("/proc/cmdline");
  if (!is_vsock || pipe2(ends, O_CLOEXEC | O_NONBLOCK)) return;
  if (dup2(ends[1], 1) < 0 || dup2(ends[1], 2) < 0) return;
  close(ends[1]);
  said = ends[0];
  open_kernel_messages();
  dial();
}

// A connection that a snapshot has broken was reset: this machine goes on, or is a copy, and the host
// waits for its call, however short the time since the last.
static void hang_up_wire(void) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(wire, SOL_SOCKET, SO_ERROR, &error, &size);
  close(wire);
  wire = -1;
  if (error == ECONNRESET) tries = TRIES, dial();
  else if (milliseconds() - dialled >= PAUSE_MS) tries = TRIES; // else the host does not want it
}

static bool take(void) {
  ssize_t size = read(said, held, sizeof held);
  held_from = 0, held_size = size > 0 ? (size_t)size : 0;
  return size > 0;
}

static void forget_said(void) {
  while (take()) continue;
}

void pass_console(void) {
  if (said < 0) return;
  show_kernel_messages();
  while (wire >= 0 && (held_size > 0 || take())) {
    ssize_t sent = send(wire, held + held_from, held_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) return;
    if (sent <= 0) return hang_up_wire();
    held_from += (size_t)sent, held_size -= (size_t)sent;
  }
}

bool watch_console(struct pollfd at[CONSOLE_PLACES]) {
  bool may_dial = milliseconds() - dialled >= PAUSE_MS;
  bool may_take = wire >= 0 ? held_size == 0 : may_dial;
  short events = (short)(POLLRDHUP | (held_size > 0 ? POLLOUT : 0));
  at[0] = (struct pollfd){.fd = may_take ? said : -1, .events = POLLIN};
  at[1] = (struct pollfd){.fd = wire, .events = events};
  bool waits = watch_kernel(&at[2]);
  return waits || (said >= 0 && wire < 0 && (tries > 0 || !may_dial));
}

void serve_console(const struct pollfd at[CONSOLE_PLACES]) {
  bool has_said = at[0].revents & POLLIN;
  if (said < 0) return;
  if (wire >= 0 && at[1].revents & ~POLLOUT) hang_up_wire();
  if (wire < 0 && (has_said || tries > 0) && milliseconds() - dialled >= PAUSE_MS) {
    if (tries > 0) tries--;
    dial();
    if (wire < 0) forget_said();
  }
  pass_console();
}

// With the last words on their way, until the VMM has taken them. Then it ends.
void close_console(void) {
  const struct linger until_taken = {.l_onoff = 1, .l_linger = LAST_MS / 1000};
  long long end = milliseconds() + LAST_MS;
  pass_console();
  while (wire >= 0 && held_size > 0 && milliseconds() < end) {
    struct pollfd room = {.fd = wire, .events = POLLOUT};
    poll(&room, 1, LAST_MS / 10);
    pass_console();
  }
  if (wire < 0) return;
  setsockopt(wire, SOL_SOCKET, SO_LINGER, &until_taken, sizeof until_taken);
  close(wire);
  wire = -1;
}
