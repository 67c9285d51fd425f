// SPDX-License-Identifier: Apache-2.0
// Stands for the agent: says its number on each channel that it gets, then says again what it hears,
// dies of the word "die", and of "deaf" hears nothing any more.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHANNELS 3

static int next_channel(void) {
  char byte, control[CMSG_SPACE(sizeof(int))];
  struct iovec place = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &place, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  int fd;
  if (recvmsg(CHANNELS, &message, 0) <= 0) exit(0);
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  dprintf(fd, "agent %d\n", (int)getpid());
  return fd;
}

static void hear(int *channel) {
  char heard[4096];
  ssize_t size = read(*channel, heard, sizeof heard);
  if (size > 0 && memmem(heard, (size_t)size, "die", 3)) abort();
  if (size <= 0 || write(*channel, heard, (size_t)size) != size) close(*channel), *channel = -1;
  if (size > 0 && memmem(heard, (size_t)size, "deaf", 4)) pause();
}

int main(void) {
  int channel = -1;
  for (;;) {
    struct pollfd at[] = {{.fd = CHANNELS, .events = POLLIN}, {.fd = channel, .events = POLLIN}};
    if (poll(at, 2, -1) < 0) return 1;
    if (at[1].revents) hear(&channel);
    if (!at[0].revents) continue;
    if (channel >= 0) close(channel);
    channel = next_channel();
  }
}
