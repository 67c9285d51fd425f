// SPDX-License-Identifier: Apache-2.0
// PID 1's channels to the host. Those of a virtio console are named ports, opened once and kept: the
// kernel gives a port to one opener, and libkrun ends the machine when one is opened a second time.
// Without such a console PID 1 listens on vsock, where only the host is let in. A snapshot breaks
// its connection there, and it makes another, which takes the place of the old one.
#include "channels.h"
#include "vsock.h"
#include "waggle.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define PATIENCE 5 // seconds for the rest of what the host has begun to send, or for it to read

static int open_port(const char *wanted) {
  DIR *ports = opendir("/sys/class/virtio-ports");
  int found = -1;
  struct dirent *entry;
  while (ports && found < 0 && (entry = readdir(ports))) {
    char path[300], name[64] = {0};
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t size = read(fd, name, sizeof name - 1);
    close(fd);
    if (size > 0) name[strcspn(name, "\n")] = 0;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    if (!strcmp(name, wanted)) found = open(path, O_RDWR | O_CLOEXEC);
  }
  if (ports) closedir(ports);
  return found;
}

void open_channel(struct channel *channel) {
  if (channel->wire >= 0 || channel->listener >= 0) return;
  if (has_vsock_channels()) channel->listener = listen_on_vsock(channel->port);
  else channel->wire = open_port(channel->name);
}

void watch_channel(const struct channel *channel, bool may_read, struct pollfd at[2]) {
  bool is_vsock = channel->listener >= 0, is_silent = channel->is_over || (!is_vsock && !may_read);
  short events = (short)((may_read ? POLLIN : 0) | (is_vsock ? POLLRDHUP : 0));
  at[0] = (struct pollfd){.fd = channel->listener, .events = POLLIN};
  at[1] = (struct pollfd){.fd = is_silent ? -1 : channel->wire, .events = events};
}

void drop_channel(struct channel *channel) {
  if (channel->listener < 0) channel->is_over = true; // the port stays: it cannot be opened again
  else close(channel->wire), channel->wire = -1;
}

// False when the caller was not the host, or is gone.
static bool take_connection(struct channel *channel) {
  const struct timeval patience = {.tv_sec = PATIENCE};
  int wire = accept4(channel->listener, NULL, NULL, SOCK_CLOEXEC);
  if (wire < 0) return false;
  if (!from_outside(wire)) return close(wire), false;
  setsockopt(wire, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(wire, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (channel->wire >= 0) close(channel->wire);
  channel->wire = wire;
  return true;
}

bool channel_changes(struct channel *channel, const struct pollfd at[2]) {
  if (at[0].revents && take_connection(channel)) return true;
  bool has_ended = at[1].revents & ~POLLIN;
  if (!has_ended || (at[1].revents & POLLIN && channel->listener < 0)) return false;
  return drop_channel(channel), true;
}
