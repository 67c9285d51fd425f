// SPDX-License-Identifier: Apache-2.0
// The socket over which channels come, from who accepts the host's connections (kit/guest/agent.c).
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

static int source = -1;

void await_channels(int socket) {
  source = socket;
  fcntl(socket, F_SETFD, FD_CLOEXEC);
}

bool awaits_channels(void) { return source >= 0; }

bool take_channels(void) {
  for (;;) {
    union {
      struct cmsghdr header;
      char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    int fd;
    struct iovec place = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &place,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_LEN(sizeof fd)};
    ssize_t got = recvmsg(source, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 && errno == EAGAIN;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_RIGHTS) continue;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    use_channel(fd);
  }
}
