// SPDX-License-Identifier: Apache-2.0
// Requests to the shim of a job, over its socket: a letter and a byte in one packet.
//   f      get a byte whenever there is more to read, and the end of the connection at the job's
//   i      get the descriptor to write the program's standard input to
//   c      close the shim's own copy of it
//   s N    send signal N to the program's process group
// All but f are answered by one byte: y, or n when there is none any more.
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int connect_shim(const char *id) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  job_path(address.sun_path, id, "socket");
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

// The answer's letter, or 0; a descriptor that came with it.
static char ask(int shim, const char packet[2], int *descriptor) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  char letter = 0;
  struct iovec byte = {.iov_base = &letter, .iov_len = 1};
  struct msghdr message = {.msg_iov = &byte,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = sizeof control};
  if (shim < 0 || send(shim, packet, 2, MSG_NOSIGNAL) != 2) return 0;
  if (recvmsg(shim, &message, MSG_CMSG_CLOEXEC) != 1) return 0;
  struct cmsghdr *came = CMSG_FIRSTHDR(&message);
  if (came && came->cmsg_type == SCM_RIGHTS) memcpy(descriptor, CMSG_DATA(came), sizeof *descriptor);
  return letter;
}

// `input ID`: all of stdin to the program; `close ID`: the end of its input as well. `resize ID ROWS
// COLUMNS`: the size of its terminal.
int input_job(const char *id) {
  static char data[1 << 16];
  int to = -1;
  ssize_t size;
  enter_image();
  if (ask(connect_shim(id), (char[2]){INPUT}, &to) != 'y' || to < 0) return 1;
  while ((size = read(0, data, sizeof data)) > 0)
    if (!write_exactly(to, data, (size_t)size)) return 1;
  return 0;
}

int close_input(const char *id) {
  int to = -1;
  int code = input_job(id);
  return ask(connect_shim(id), (char[2]){CLOSE}, &to) == 'y' ? code : 1;
}

int resize_job(const char *words) {
  char id[ID_LENGTH + 1];
  struct winsize size = {0};
  int to = -1;
  enter_image();
  if (sscanf(words, "%36s %hu %hu", id, &size.ws_row, &size.ws_col) != 3) errno = EINVAL, fail("resize");
  if (ask(connect_shim(id), (char[2]){INPUT}, &to) != 'y' || to < 0) return 1;
  return ioctl(to, TIOCSWINSZ, &size) ? 1 : 0;
}

int signal_job(const char *words) {
  char id[ID_LENGTH + 1];
  int number = 0, none = -1;
  enter_image();
  if (sscanf(words, "%36s %d", id, &number) != 2 || number < 1 || number > 64)
    errno = EINVAL, fail("signal");
  return ask(connect_shim(id), (char[2]){SIGNAL, (char)number}, &none) == 'y' ? 0 : 1;
}
