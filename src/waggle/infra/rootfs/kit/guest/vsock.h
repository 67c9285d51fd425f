// SPDX-License-Identifier: Apache-2.0
// Sockets to and from the host of a machine that has vsock.
#ifndef WAGGLE_VSOCK_H
#define WAGGLE_VSOCK_H

#include <sys/socket.h>

#define CID_HOST 2u

// From linux/vm_sockets.h, which musl does not have.
struct vsock_address {
  sa_family_t family;
  unsigned short reserved;
  unsigned int port, cid;
  unsigned char flags, zero[3];
};
_Static_assert(sizeof(struct vsock_address) == sizeof(struct sockaddr), "as the kernel has it");

// vsock.c: connect to that port of the host within so many milliseconds; -1 when that fails. Neither
// this nor what is sent over the connection blocks.
int dial_host(unsigned port, int milliseconds);

// doors.c: listen on that port of ours for a connection, without blocking; -1 when that fails.
int listen_on_vsock(unsigned port);

#endif
