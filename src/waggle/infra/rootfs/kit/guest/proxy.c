// SPDX-License-Identifier: Apache-2.0
// Connections to the host's proxy, which dropbear listens for. One may be kept ready: it has crossed
// to the host by the time it is needed, and a GET of a small page saves a third of its time.
#include "reach.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEAD 2048

static int open_connection(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  struct sockaddr_in proxy = {.sin_family = AF_INET,
                              .sin_port = htons(PROXY_PORT),
                              .sin_addr = {htonl(INADDR_LOOPBACK)}};
  if (fd < 0) return -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, (struct sockaddr *)&proxy, sizeof proxy) == 0 || errno == EINPROGRESS) return fd;
  int error = errno;
  close(fd);
  return errno = error, -1;
}

// The host speaks only when it hangs up.
static void ready_one_ended(struct watched *watched, uint32_t events) {
  (void)events;
  forget(watched);
}

static struct watched ready_one = {.fd = -1, .ready = ready_one_ended};

void keep_one_ready(void) {
  if (ready_one.fd >= 0 || (ready_one.fd = open_connection()) < 0) return;
  if (!watch(&ready_one, EPOLLIN | EPOLLRDHUP)) forget(&ready_one);
}

void drop_ready_one(void) { forget(&ready_one); }

int call_proxy(void) {
  int fd = ready_one.fd;
  if (fd < 0) return open_connection();
  if (!watch(&ready_one, 0)) return -1;
  ready_one.fd = -1;
  return fd;
}

int send_request(int proxy, const char *host, unsigned port) {
  char line[2 * MAX_NAME + 64];
  int size = snprintf(line, sizeof line, "CONNECT %s:%u HTTP/1.1\r\nHost: %s:%u\r\n\r\n", host, port,
                      host, port);
  ssize_t sent = send(proxy, line, (size_t)size, MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN ? 0 : -1;
  return sent == size ? 1 : -1;
}

int read_status(int proxy) {
  static const char begin[] = "HTTP/1.1 ";
  char head[MAX_HEAD + 1];
  ssize_t size = recv(proxy, head, MAX_HEAD, MSG_PEEK);
  if (size < 0) return errno == EAGAIN ? 0 : -1;
  head[size] = 0;
  char *end = strstr(head, "\r\n\r\n");
  if (!end) return size == 0 || size == MAX_HEAD ? -1 : 0;
  size_t length = (size_t)(end + 4 - head);
  int status = strncmp(head, begin, sizeof begin - 1) ? -1 : atoi(head + sizeof begin - 1);
  return recv(proxy, head, length, 0) == (ssize_t)length ? status : -1;
}
