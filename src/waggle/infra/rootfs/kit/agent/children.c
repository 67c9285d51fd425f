// SPDX-License-Identifier: Apache-2.0
// The children that answer: one for each request that could block, and one for each program as long as
// somebody may ask for it. A child that does not answer in time is killed, and the answer says so.
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define MOST_SECONDS 60 // of a request that is no program
#define LINGER 2 // seconds for the answer to be relayed before the machine ends

struct child children[MAX_CHILDREN];
static int last_number;

int64_t monotonic(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * SECOND + time.tv_nsec;
}

void let_go(struct child *child) {
  if (child->socket >= 0) close(child->socket);
  child->socket = -1, child->waiting_count = 0, child->is_readable = false;
  if (child->is_reaped) child->pid = 0;
}

// A child has nothing open but its socket: not the port, which is one agent's.
static void close_others(int socket) {
  int kept = dup2(socket, 3);
  if (syscall(SYS_close_range, 4u, ~0u, 0u) == 0) return;
  for (int fd = kept + 1; fd < 1024; fd++) close(fd);
}

// Requests that count with this one. What was answered does not, though its child may not have ended;
// a child that was killed and does not end does. What is under way can be asked when that is all it may.
static int count_requests(const struct method *method) {
  int count = 0;
  for (struct child *child = children; child < children + MAX_CHILDREN; child++)
    count += child->pid && !child->number && (child->waiting_count || child->is_late) &&
             (child->method->handle == get_agent_info) == (method->handle == get_agent_info);
  return count;
}

// Whether one more program may run. One that has ended and that nobody waits for makes room.
static bool has_room_for_program(void) {
  struct child *oldest = NULL;
  int count = 0;
  for (struct child *child = children; child < children + MAX_CHILDREN; child++) {
    if (!child->pid || !child->number || (child->is_told && child->socket < 0)) continue;
    count++;
    if (child->has_ended && !child->waiting_count && (!oldest || child->number < oldest->number))
      oldest = child;
  }
  if (count < limits.processes) return true;
  if (!oldest) return false;
  oldest->is_told = true, let_go(oldest); // it ends with its socket
  return true;
}

static struct child *find_place(const struct method *method) {
  bool is_program = method->where == PROGRAM;
  if (is_program ? has_room_for_program() : count_requests(method) < limits.requests)
    for (int i = 0; i < MAX_CHILDREN; i++)
      if (!children[i].pid) return &children[i];
  refuse(BUSY, NULL, NULL, "As many %s as the policy allows are under way: try again.",
         is_program ? "processes" : "requests");
  return NULL;
}

static void owe(struct child *child, const struct method *method, const json_t *params,
                const char *id, int64_t seconds) {
  struct waiting *waiting = &child->waiting[child->waiting_count++];
  snprintf(waiting->id, sizeof waiting->id, "%s", id);
  snprintf(waiting->subject, sizeof waiting->subject, "%s", subject_of(params));
  waiting->method = method, waiting->began = monotonic(), waiting->due = monotonic() + seconds * SECOND;
}

// The rest of a child's life.
__attribute__((noreturn)) static void work(const struct method *method, const json_t *params,
                                           int number, const char *id, int socket) {
  struct bytes bytes[MAX_BYTES] = {{0}};
  struct timeval linger = {.tv_sec = LINGER};
  char byte;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  close_others(socket), socket = 3;
  if (method->where == PROGRAM) run_program(params, number, id, socket);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (!keep_capabilities(method->capabilities)) _exit(1);
  refuse(TOO_LARGE, NULL, NULL, TOO_MUCH); // unless the handler knows better
  json_t *result = method->handle(params, bytes);
  bool is_sent = result ? send_result(socket, id, result, bytes) : send_refusal(socket, id);
  if (!is_sent || !result || !afterwards) _exit(0);
  shutdown(socket, SHUT_WR);
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &linger, sizeof linger);
  while (recv(socket, &byte, 1, 0) < 0 && errno == EINTR) continue;
  afterwards();
  _exit(0);
}

bool start_child(const struct method *method, const json_t *params, const char *id) {
  struct child *child = find_place(method);
  int ends[2];
  if (!child) return false;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
    return refuse_errno("socketpair"), false;
  int number = method->where == PROGRAM ? ++last_number : 0;
  pid_t pid = fork();
  if (pid == 0) work(method, params, number, id, ends[1]);
  close(ends[1]);
  if (pid < 0) return close(ends[0]), refuse_errno("fork"), false;
  int64_t seconds = limits.timeout_seconds;
  if (!number && seconds > MOST_SECONDS) seconds = MOST_SECONDS;
  if (number && integer_param(params, "timeout", seconds) < seconds)
    seconds = integer_param(params, "timeout", seconds);
  if (number) seconds += 10; // it ends its program itself
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  *child = (struct child){.pid = pid, .socket = ends[0], .method = method, .number = number};
  owe(child, method, params, id, seconds);
  watch(child->socket, child);
  return true;
}

static bool is_program(const struct child *child, int64_t number) {
  return child->pid && child->socket >= 0 && child->number == number;
}

bool ask_program(const struct method *method, const json_t *params, const char *id) {
  int64_t number = integer_param(params, "process", 0);
  struct ask ask = {.what = *method->name == 'k' ? 'K' : 'G'};
  struct child *child = children;
  while (child < children + MAX_CHILDREN && !is_program(child, number)) child++;
  if (child == children + MAX_CHILDREN)
    return refuse(NOT_FOUND, NULL, NULL, "There is no process %d.", (int)number), false;
  snprintf(ask.id, sizeof ask.id, "%s", id);
  if (child->waiting_count == MAX_WAITING ||
      send(child->socket, &ask, sizeof ask, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof ask)
    return refuse(BUSY, NULL, NULL, "Others ask for this process: try again."), false;
  owe(child, method, params, id, limits.timeout_seconds);
  return true;
}

void reap_children(void) {
  pid_t pid;
  while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
    for (struct child *child = children; child < children + MAX_CHILDREN; child++)
      if (child->pid == pid) {
        child->is_reaped = child->is_readable = true; // its end is read after its last answer
        if (child->socket < 0) let_go(child);
      }
}

static int64_t due(const struct child *child) {
  int64_t next = INT64_MAX;
  if (!child->pid || child->is_late) return next;
  if (child->more_due) next = child->more_due;
  for (int i = 0; i < child->waiting_count; i++)
    if (child->waiting[i].due < next) next = child->waiting[i].due;
  return next;
}

// Whether what it says waits for the host, which then is late itself: a second more.
static bool waits_for_host(struct child *child, int64_t time) {
  char byte;
  if (child->socket < 0 || recv(child->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) return false;
  if (child->more_due) child->more_due = time + SECOND;
  for (int i = 0; i < child->waiting_count; i++)
    if (child->waiting[i].due <= time) child->waiting[i].due = time + SECOND;
  return true;
}

// A place is free when the kernel has ended its child: until then it counts.
void end_late_children(void) {
  int64_t time = monotonic();
  for (struct child *child = children; child < children + MAX_CHILDREN; child++) {
    if (due(child) > time || waits_for_host(child, time)) continue;
    child->is_late = child->is_readable = true;
    if (!child->number) kill(child->pid, SIGKILL); // others kill their program when they are let go
  }
}

int64_t next_deadline(void) {
  int64_t next = INT64_MAX;
  for (struct child *child = children; child < children + MAX_CHILDREN; child++)
    if (due(child) < next) next = due(child);
  return next;
}
