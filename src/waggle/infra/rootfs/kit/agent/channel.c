// SPDX-License-Identifier: Apache-2.0
// The virtio-serial port to the host: lines in, bytes out, never waiting. The kernel gives a port to
// one opener. While no host is there, poll says "hung up" at any time; so it is watched by edges, and a
// host that comes back wakes the agent (drivers/char/virtio_console.c). Or a socket, which ends; others
// may come in its place.
#include "server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUT 65536
#define PACKET 16384 // bytes at most of one write to vsock: why is in kit/guest/preload.c

#define BLINK 500000000ll // nanoseconds

static int channel = -1;
static bool is_port, is_vsock, can_read, can_write, is_hung_up = true;
static char in[MAX_LINE + 1], out[OUT];
static size_t in_size, in_seen, in_used, out_from, out_size;
static bool is_skipping;
static int64_t hung_up_at;

// Where udev has not made a name of it.
static bool find_port(char *path, size_t size) {
  snprintf(path, size, "/dev/virtio-ports/%s", PORT_NAME);
  if (access(path, F_OK) == 0) return true;
  DIR *ports = opendir("/sys/class/virtio-ports");
  bool is_found = false;
  struct dirent *entry;
  while (ports && !is_found && (entry = readdir(ports))) {
    char file[300], name[64];
    snprintf(file, sizeof file, "/sys/class/virtio-ports/%s/name", entry->d_name);
    if (!read_text(file, name, sizeof name)) continue;
    name[strcspn(name, "\n")] = 0;
    snprintf(path, size, "/dev/%s", entry->d_name);
    is_found = strcmp(name, PORT_NAME) == 0;
  }
  if (ports) closedir(ports);
  return is_found;
}

int open_channel(const char *path) {
  char found[300];
  if (!path && !find_port(found, sizeof found)) {
    fprintf(stderr, "waggle-agent: this machine has no virtio-serial port named %s\n", PORT_NAME);
    return -1;
  }
  if (!path) path = found;
  int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd < 0)
    fprintf(stderr, "waggle-agent: %s: %s\n", path,
            errno == EBUSY ? "another agent has this port" : strerror(errno));
  return fd;
}

bool has_host(void) { return !is_hung_up; }

static void hang_up(void) {
  if (!is_hung_up) hung_up_at = monotonic();
  is_hung_up = true;
}

static void drop_channel(void) {
  if (channel < 0) return;
  unwatch(channel), close(channel);
  channel = -1, can_read = can_write = false;
}

// False if no other comes after this socket.
static bool end_socket(void) {
  hang_up();
  drop_channel();
  return awaits_channels();
}

// Nobody hears any more what the last host asked. The SIZE bytes at the end are the first of another's.
static void begin(size_t size) {
  memmove(in, in + in_size - size, size);
  in_size = size, in_seen = in_used = out_from = out_size = 0, is_skipping = false;
  forget_host();
  put_line(STARTED);
}

void use_channel(int fd) {
  struct stat about;
  int family = AF_UNSPEC;
  socklen_t family_size = sizeof family;
  drop_channel();
  channel = fd;
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  is_port = fstat(fd, &about) == 0 && S_ISCHR(about.st_mode);
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_size);
  is_vsock = family == AF_VSOCK;
  can_read = can_write = true, is_hung_up = false;
  watch(fd, NULL);
  begin(0);
}

// There is a host. The kernel says later than the first bytes come that one has gone and another is
// there, so a short time without one is none.
static void greet(size_t size) {
  if (!is_hung_up) return;
  is_hung_up = false;
  if (monotonic() - hung_up_at >= BLINK) begin(size);
}

// A vsock that a snapshot has reset has an error and nothing else (net/vmw_vsock/virtio_transport.c).
bool channel_event(uint32_t events) {
  if (!is_port && events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN)) return end_socket();
  if (events & EPOLLHUP) {
    hang_up();
  } else {
    greet(0);
  }
  if (events & EPOLLIN) can_read = true;
  if (events & EPOLLOUT) can_write = true;
  return true;
}

// A port without a host gives nothing, at once; a socket has ended.
bool read_in(void) {
  if (!can_read) return false;
  ssize_t got = read(channel, in + in_size, MAX_LINE - in_size);
  if (got > 0) return in_size += (size_t)got, greet((size_t)got), true;
  if (got < 0 && errno == EINTR) return true;
  can_read = false;
  if (got == 0 && is_port) hang_up();
  if (!is_port && (got == 0 || errno != EAGAIN) && !end_socket()) _exit(0);
  return false;
}

// The buffer holds a line and what follows; the line is taken away with the next call.
char *next_line(size_t *size, bool *is_too_long) {
  memmove(in, in + in_used, in_size - in_used);
  in_size -= in_used, in_seen = in_seen > in_used ? in_seen - in_used : 0, in_used = 0;
  char *end = memchr(in + in_seen, '\n', in_size - in_seen);
  if (end) {
    bool was_skipped = is_skipping;
    *size = (size_t)(end - in), in_used = *size + 1, in_seen = in_used;
    *end = 0, is_skipping = false, *is_too_long = false;
    if (!was_skipped) return in;
    return next_line(size, is_too_long);
  }
  in_seen = in_size;
  if (in_size < MAX_LINE) return NULL;
  in_size = in_seen = 0;
  if (is_skipping) return NULL;
  return is_skipping = true, *is_too_long = true, *size = 0, in[0] = 0, in;
}

size_t room_out(char **place) {
  if (out_from > 0 && out_from == out_size) out_from = out_size = 0;
  if (out_from > OUT / 2) memmove(out, out + out_from, out_size -= out_from), out_from = 0;
  *place = out + out_size;
  return OUT - out_size;
}

void put_out(size_t size) { out_size += size; }

bool put_line(const char *line) {
  char *place;
  size_t size = strlen(line);
  if (is_hung_up) return true;
  if (room_out(&place) < size) return false;
  memcpy(place, line, size);
  put_out(size);
  return true;
}

bool flush_out(void) {
  if (!can_write || out_from == out_size) return false;
  size_t size = out_size - out_from;
  if (is_vsock && size > PACKET) size = PACKET;
  ssize_t put = write(channel, out + out_from, size);
  if (put > 0) return out_from += (size_t)put, true;
  if (put < 0 && errno == EINTR) return true;
  can_write = false;
  if (put < 0 && errno != EAGAIN && is_port) hang_up();
  return false;
}
