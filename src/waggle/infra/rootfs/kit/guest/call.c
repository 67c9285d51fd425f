// SPDX-License-Identifier: Apache-2.0
// Requests to the shim of a job, over its socket: a letter and a byte in one packet.
//   f      get a byte whenever there is more to read, and the end of the connection at the job's
//   i      get the descriptor to write the program's standard input to
//   c      close the shim's own copy of it
//   s N    send signal N to the program's process group
// All but f are answered by one byte: y, or n when there is none any more. Exit code 1 says the
// same; any other but 0 that the shim does not answer.
#include "job.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_SECONDS 5 // a shim that is stopped answers nothing
#define END_MS 4000
#define READ_MS 25000

// -1 when there is no shim; also, with EAGAIN, when it lets nobody in.
int connect_shim(const char *id) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval limit = {.tv_sec = ANSWER_SECONDS};
  job_path(address.sun_path, id, "socket");
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
  int error = errno;
  close(fd);
  return errno = error, -1;
}

// Whether the answer is yes, and a descriptor that came with it. Complain and end if none comes.
static bool ask(const char *id, char request, char argument, int *descriptor) {
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
  int shim = connect_shim(id);
  if (shim < 0 && errno == EAGAIN) fail("the job's shim");
  if (shim < 0 || send(shim, (char[2]){request, argument}, 2, MSG_NOSIGNAL) != 2) return false;
  ssize_t size = recvmsg(shim, &message, MSG_CMSG_CLOEXEC);
  if (size < 0 && errno == EAGAIN) fail("the job's shim");
  struct cmsghdr *came = size == 1 ? CMSG_FIRSTHDR(&message) : NULL;
  if (came && came->cmsg_type == SCM_RIGHTS) memcpy(descriptor, CMSG_DATA(came), sizeof *descriptor);
  close(shim);
  return size == 1 && letter == 'y';
}

static bool ask_for_input(const char *id, int *to) {
  *to = -1;
  return ask(id, INPUT, 0, to) && *to >= 0;
}

// As the program reads. The SSH server does not say when the host has given up, which it has when a
// program reads nothing for so long. A pipe that takes anything takes PIPE_BUF bytes.
static bool write_input(int to, const char *data, size_t size) {
  while (size > 0) {
    struct pollfd waits[] = {{.fd = to, .events = POLLOUT}, {.fd = 1}};
    int ready = poll(waits, 2, READ_MS);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || waits[1].revents) exit(FAILED);
    ssize_t n = write(to, data, size < PIPE_BUF ? size : PIPE_BUF);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) data += n, size -= (size_t)n;
  }
  return true;
}

// `input ID`: all of stdin to the program; `close ID`: the end of its input as well. `resize ID ROWS
// COLUMNS`: the size of its terminal.
int input_job(const char *id) {
  static char data[1 << 16];
  int to;
  ssize_t size;
  signal(SIGPIPE, SIG_IGN);
  enter_image();
  if (!ask_for_input(id, &to)) return 1;
  while ((size = read(0, data, sizeof data)) > 0)
    if (!write_input(to, data, (size_t)size)) return 1;
  return 0;
}

int close_input(const char *id) {
  int none, code = input_job(id);
  return ask(id, CLOSE, 0, &none) ? code : 1;
}

int resize_job(const char *words) {
  char id[ID_LENGTH + 1];
  struct winsize size = {0};
  int to;
  enter_image();
  if (sscanf(words, "%36s %hu %hu", id, &size.ws_row, &size.ws_col) != 3) errno = EINVAL, fail("resize");
  return ask_for_input(id, &to) && ioctl(to, TIOCSWINSZ, &size) == 0 ? 0 : 1;
}

int signal_job(const char *words) {
  char id[ID_LENGTH + 1];
  int number = 0, none;
  enter_image();
  if (sscanf(words, "%36s %d", id, &number) != 2 || number < 1 || number > 64)
    errno = EINVAL, fail("signal");
  return ask(id, SIGNAL, (char)number, &none) ? 0 : 1;
}

void end_shim(const char *id) {
  struct ucred whose;
  socklen_t size = sizeof whose;
  int shim = is_running(id) ? connect_shim(id) : -1;
  if (shim < 0) return;
  struct pollfd end = {.fd = shim, .events = POLLIN}; // it sends nothing to who does not follow
  if (poll(&end, 1, END_MS) == 0 && getsockopt(shim, SOL_SOCKET, SO_PEERCRED, &whose, &size) == 0 &&
      whose.pid > 1)
    kill(whose.pid, SIGKILL);
  close(shim);
}
