// SPDX-License-Identifier: Apache-2.0
// Small helpers of the guest's programs; see waggle.h.
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void complain(const char *what) { dprintf(2, "waggle: %s: %s\n", what, strerror(errno)); }

bool write_file(const char *path, int flags, mode_t mode, const void *data, size_t size) {
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | flags, mode); // no pipe holds us
  if (fd < 0) return complain(path), false;
  if (!write_exactly(fd, data, size)) return complain(path), close(fd), false;
  return close(fd) == 0;
}

bool write_exactly(int fd, const void *data, size_t size) {
  const char *at = data;
  while (size > 0) {
    ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, size -= (size_t)n;
  }
  return true;
}

bool write_text(const char *path, const char *text) {
  return write_file(path, 0, 0644, text, strlen(text));
}

bool read_exactly(int fd, void *buffer, size_t size) {
  char *at = buffer;
  while (size > 0) {
    ssize_t n = read(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, size -= (size_t)n;
  }
  return true;
}

bool hand_over(int socket, int fd) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof fd)];
  } control = {0};
  struct iovec byte = {.iov_base = "", .iov_len = 1};
  struct msghdr message = {.msg_iov = &byte,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = sizeof control};
  control.header.cmsg_level = SOL_SOCKET;
  control.header.cmsg_type = SCM_RIGHTS;
  control.header.cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

bool assume(const struct account *account) {
  return setgroups(account->group_count, account->groups) == 0 &&
         setresgid(account->gid, account->gid, account->gid) == 0 &&
         setresuid(account->uid, account->uid, account->uid) == 0;
}
