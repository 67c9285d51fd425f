// SPDX-License-Identifier: Apache-2.0
// The name server that programs find at any address, by UDP and by TCP: its sockets.
#include "reach.h"
#include "waggle.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAMES_PORT 53
enum { PORT_UDP = 3, PORT_TCP = 4 }; // where it listens: port 53 is for programs
#define MAX_CALLERS 32 // by TCP
#define IDLE_MS 10000
#define AT_ONCE 64

static struct caller {
  struct watched watched; // first
  long long until;
  size_t got;
  unsigned char data[2 + MAX_QUESTION];
} callers[MAX_CALLERS];
static struct watched udp, tcp;

static void drop_caller(struct caller *caller) {
  forget(&caller->watched);
  forget_caller(caller);
}

void send_answer(const struct origin *origin, unsigned char *data, size_t size) {
  ssize_t all = (ssize_t)size + 2;
  data[0] = (unsigned char)(size >> 8), data[1] = (unsigned char)size;
  // As the one that was asked, and from its port, which is not this process's own.
  const struct sockaddr_in as = {.sin_port = htons(NAMES_PORT), .sin_addr = origin->to};
  if (!origin->caller) send_datagram(&as, &origin->from, data + 2, size);
  else if (send(origin->caller->watched.fd, data, (size_t)all, MSG_NOSIGNAL) != all)
    drop_caller(origin->caller);
}

static void take_datagrams(struct watched *watched, uint32_t events) {
  (void)events;
  for (int i = 0; i < AT_ONCE; i++) {
    unsigned char data[MAX_QUESTION];
    struct origin origin = {0};
    union {
      struct cmsghdr header;
      char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
    } control;
    struct iovec part = {data, sizeof data};
    struct msghdr message = {.msg_name = &origin.from,
                             .msg_namelen = sizeof origin.from,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(watched->fd, &message, 0);
    if (size < 0) return;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != IP_PKTINFO) continue;
    origin.to = ((struct in_pktinfo *)CMSG_DATA(header))->ipi_addr;
    take_question(&origin, data, (size_t)size);
  }
}

static void hear(struct watched *watched, uint32_t events) {
  struct caller *caller = (void *)watched;
  struct origin origin = {.caller = caller};
  (void)events;
  ssize_t size = recv(watched->fd, caller->data + caller->got, sizeof caller->data - caller->got, 0);
  if (size <= 0) return drop_caller(caller);
  caller->got += (size_t)size, caller->until = milliseconds() + IDLE_MS;
  while (watched->fd >= 0 && caller->got >= 2) {
    size_t whole = 2 + ((size_t)caller->data[0] << 8 | caller->data[1]);
    if (whole > sizeof caller->data) return drop_caller(caller);
    if (caller->got < whole) return;
    take_question(&origin, caller->data + 2, whole - 2);
    memmove(caller->data, caller->data + whole, caller->got -= whole);
  }
}

static void accept_callers(struct watched *watched, uint32_t events) {
  (void)events;
  long long until = milliseconds() + IDLE_MS;
  int fd = accept4(watched->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  for (size_t i = 0; fd >= 0 && i < MAX_CALLERS; i++) {
    if (callers[i].watched.fd >= 0) continue;
    callers[i] = (struct caller){.watched = {.fd = fd, .ready = hear}, .until = until};
    if (!watch(&callers[i].watched, EPOLLIN)) forget(&callers[i].watched);
    return;
  }
  if (fd >= 0) close(fd);
}

void look_after_callers(void) {
  for (size_t i = 0; i < MAX_CALLERS; i++) {
    if (callers[i].watched.fd < 0) continue;
    if (milliseconds() >= callers[i].until) drop_caller(&callers[i]);
    else due_at(callers[i].until);
  }
}

bool open_name_server(int *udp_socket, int *tcp_socket) {
  int on = 1;
  for (size_t i = 0; i < MAX_CALLERS; i++) callers[i].watched.fd = -1;
  *udp_socket = open_listener(SOCK_DGRAM, PORT_UDP, 0);
  *tcp_socket = open_listener(SOCK_STREAM, PORT_TCP, MAX_CALLERS);
  udp = (struct watched){.fd = *udp_socket, .ready = take_datagrams};
  tcp = (struct watched){.fd = *tcp_socket, .ready = accept_callers};
  return udp.fd >= 0 && tcp.fd >= 0 &&
         setsockopt(udp.fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) == 0 && watch(&udp, EPOLLIN) &&
         watch(&tcp, EPOLLIN);
}
