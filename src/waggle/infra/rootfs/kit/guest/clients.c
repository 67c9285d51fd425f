// SPDX-License-Identifier: Apache-2.0
// Who is connected to a job's shim: those who follow it, and those who ask something (call.c). Only
// root can connect.
#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct pollfd others[2 + CLIENTS];
static bool follows[2 + CLIENTS];

static int open_socket(const char *id) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  job_path(address.sun_path, id, "socket");
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, CLIENTS))
    fail("socket");
  return fd;
}

void open_clients(const char *id) {
  for (int i = 0; i < 2 + CLIENTS; i++) others[i] = (struct pollfd){.fd = -1, .events = POLLIN};
  others[1].fd = open_socket(id);
}

static void notify(int client) { send(others[client].fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT); }

void notify_clients(void) {
  for (int i = 2; i < 2 + CLIENTS; i++)
    if (others[i].fd >= 0 && follows[i]) notify(i);
}

static void answer(int to, char letter, int descriptor) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof descriptor)];
  } control = {0};
  struct iovec byte = {.iov_base = &letter, .iov_len = 1};
  struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1};
  if (descriptor >= 0) {
    message.msg_control = &control, message.msg_controllen = sizeof control;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
  }
  sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void serve_client(int client, struct program *program) {
  char packet[2];
  int fd = others[client].fd;
  if (recv(fd, packet, sizeof packet, MSG_DONTWAIT) != sizeof packet) {
    close(fd), others[client].fd = -1;
    return;
  }
  switch (packet[0]) {
  case FOLLOW:
    follows[client] = true;
    notify(client); // of what came since it last looked
    break;
  case INPUT: answer(fd, program->input < 0 ? 'n' : 'y', program->input); break;
  case CLOSE:
    answer(fd, program->input < 0 ? 'n' : 'y', -1);
    if (program->input >= 0) close(program->input);
    program->input = -1;
    break;
  case SIGNAL:
    answer(fd, kill(-program->pid, packet[1]) && kill(program->pid, packet[1]) ? 'n' : 'y', -1);
    break;
  }
}

static int free_place(void) {
  for (int i = 2; i < 2 + CLIENTS; i++)
    if (others[i].fd < 0) return i;
  return -1;
}

static void accept_client(int place) {
  others[place] = (struct pollfd){
      .fd = accept4(others[1].fd, NULL, NULL, SOCK_CLOEXEC), .events = POLLIN};
  follows[place] = false;
}

// While there is no place, those who want one wait for it at the socket.
void serve_clients(struct program *program) {
  for (int i = 2; i < 2 + CLIENTS; i++)
    if (others[i].fd >= 0 && others[i].revents) serve_client(i, program);
  int place = free_place();
  if (place >= 0 && others[1].revents) accept_client(place), place = free_place();
  others[1].events = place >= 0 ? POLLIN : 0;
}

void close_clients(void) {
  for (int i = 1; i < 2 + CLIENTS; i++) {
    if (others[i].fd >= 0) close(others[i].fd);
    others[i].fd = -1;
  }
}
