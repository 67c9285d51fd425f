// SPDX-License-Identifier: Apache-2.0
// The two doors that lead to the SSH server, one for each hypervisor: TCP behind QEMU's forwarded
// port, in a network name space that programs are not in (network.c), vsock behind the socket of others.
// Code inside the guest may use neither. Root can take the gateway's address and fill the places for
// connections; it still has no key, and the server has PID 1 empty them.
#include "vsock.h"
#include "waggle.h"

#include <arpa/inet.h>
#include <unistd.h>

#define SSH_PORT 22 // on both
#define BACKLOG 16
#define HOST_ADDRESS "10.0.2.2" // whence QEMU forwards
static int listen_on(int family, const void *address, socklen_t size) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, address, size) == 0 && listen(fd, BACKLOG) == 0) return fd;
  complain("listen");
  close(fd);
  return -1;
}

static int card_door = -1;

void open_card_door(void) {
  struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons(SSH_PORT)};
  inet_pton(AF_INET, CARD_ADDRESS, &tcp.sin_addr);
  card_door = listen_on(AF_INET, &tcp, sizeof tcp);
}

int listen_on_vsock(unsigned port) {
  struct vsock_address vsock = {.family = AF_VSOCK, .port = port, .cid = -1u}; // any of ours
  return listen_on(AF_VSOCK, &vsock, sizeof vsock);
}

void open_doors(struct pollfd doors[DOORS]) {
  doors[0] = (struct pollfd){.fd = card_door, .events = POLLIN};
  doors[1] = (struct pollfd){.fd = listen_on_vsock(SSH_PORT), .events = POLLIN};
}

bool from_outside(int connection) {
  union {
    struct sockaddr any;
    struct sockaddr_in tcp;
    struct vsock_address vsock;
  } peer = {0};
  struct in_addr host;
  socklen_t size = sizeof peer;
  if (getpeername(connection, &peer.any, &size)) return false;
  if (peer.any.sa_family == AF_VSOCK) return peer.vsock.cid == CID_HOST;
  return peer.any.sa_family == AF_INET && inet_pton(AF_INET, HOST_ADDRESS, &host) == 1 &&
         peer.tcp.sin_addr.s_addr == host.s_addr;
}
