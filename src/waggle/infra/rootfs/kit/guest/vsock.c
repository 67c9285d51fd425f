// SPDX-License-Identifier: Apache-2.0
// A connection from PID 1 to the host. Its VMM answers at once, unless it is about to end.
#include "vsock.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <unistd.h>

int dial_host(unsigned port, int milliseconds) {
  struct vsock_address host = {.family = AF_VSOCK, .port = port, .cid = CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = -1;
  socklen_t size = sizeof error;
  struct pollfd made = {.fd = fd, .events = POLLOUT};
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&host, sizeof host) == 0) return fd;
  bool is_made = errno == EINPROGRESS && poll(&made, 1, milliseconds) == 1 &&
                 getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
  if (is_made) return fd;
  close(fd);
  return -1;
}
