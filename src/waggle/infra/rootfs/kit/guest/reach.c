// SPDX-License-Identifier: Apache-2.0
// The process that gives programs a network without their knowing of the proxy (reach.h), and its one
// loop. PID 1 starts it in the kit, with a socket over which it says that the host has sent another
// record (reaching.c). What cannot be had of this kernel ends it for good, with CANNOT.
#include "reach.h"
#include "reaching.h"
#include "waggle.h"

#include <fcntl.h>
#include <netinet/ip.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64
#define OPEN_FILES 4096
#define MAX_RECORD 4096

static int poller = -1;
static struct epoll_event events[EVENTS];
static int event_count;
static long long due; // 0: never

void due_at(long long when) {
  if (due == 0 || when < due) due = when;
}

bool watch(struct watched *watched, uint32_t wanted) {
  struct epoll_event event = {.events = wanted, .data.ptr = watched};
  int operation = !watched->armed ? EPOLL_CTL_ADD : wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
  if (watched->armed == wanted) return true;
  watched->armed = wanted;
  return epoll_ctl(poller, operation, watched->fd, &event) == 0;
}

void forget(struct watched *watched) {
  if (watched->fd >= 0) close(watched->fd); // nobody else has it, so it is not waited for either
  watched->fd = -1, watched->armed = 0;
  for (int i = 0; i < event_count; i++)
    if (events[i].data.ptr == watched) events[i].data.ptr = NULL;
}

int open_listener(int type, uint16_t port, int backlog) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr = {htonl(NAME_SERVER)}};
  int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on) == 0 &&
      bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
      (type == SOCK_DGRAM || listen(fd, backlog) == 0))
    return fd;
  complain("listener");
  if (fd >= 0) close(fd);
  return -1;
}

// Do as the host's record says. Names keep their addresses: programs that run have them. Most copies
// of a machine have the same record as it.
static bool obey_record(void) {
  static struct range ranges[MAX_RANGES];
  static char obeyed[MAX_RECORD] = "-";
  char text[MAX_RECORD];
  int fd = open(NETWORK_RECORD, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[size > 0 ? size : 0] = 0;
  forget_answers();
  hang_up_asking();
  drop_ready_one();
  trust_nobody();
  if (strcmp(text, obeyed) == 0) return true;
  size_t count = read_ranges(text, ranges);
  bool good = set_ranges(ranges, count) && set_ways(ranges, count);
  strcpy(obeyed, good ? text : "-");
  return good;
}

static void told(struct watched *watched, uint32_t happened) {
  char which;
  if (happened & EPOLLIN && recv(watched->fd, &which, 1, MSG_DONTWAIT) == 1) {
    obey_record();
    send(watched->fd, &which, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  } else {
    _exit(0); // PID 1 has given this process up
  }
}

static void called(struct watched *watched, uint32_t happened) {
  (void)watched, (void)happened;
  take_calls();
}

static void go_on(void) {
  for (;;) {
    long long left = due ? due - milliseconds() : -1;
    event_count = epoll_wait(poller, events, EVENTS, due == 0 ? -1 : left < 0 ? 0 : (int)left);
    due = 0;
    for (int i = 0; i < event_count; i++) {
      struct watched *watched = events[i].data.ptr;
      if (watched) watched->ready(watched, events[i].events);
    }
    event_count = 0;
    look_after_relays();
    look_after_asking();
    look_after_callers();
  }
}

int main(void) {
  static struct watched telling = {.fd = REACH_SOCKET, .ready = told}, ring = {.ready = called};
  const struct rlimit files = {OPEN_FILES, OPEN_FILES};
  int sockets[SLOTS];
  setrlimit(RLIMIT_NOFILE, &files);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (!open_relays(&sockets[ACCEPTING], &sockets[HOLDING]) ||
      !open_name_server(&sockets[NAMES_UDP], &sockets[NAMES_TCP]) || !open_names() ||
      !open_packets())
    return CANNOT;
  ring.fd = steer(sockets);
  if (ring.fd < 0 || !watch(&ring, EPOLLIN) || !watch(&telling, EPOLLIN)) return CANNOT;
  obey_record();
  go_on();
}
