// SPDX-License-Identifier: Apache-2.0
// The host says which names exist, over one connection through the proxy to a name that leads nowhere
// else (infra/net/names.py): a name a line, and of each, in any order, a line `NAME STATUS SECONDS`.
#include "reach.h"
#include "waggle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define HOST "names.waggle.internal"
#define PORT 53
#define MAX_ASKED 128
#define MAX_LINE (MAX_NAME + 32)
#define PATIENCE_MS 10000
#define FIRST_PAUSE_MS 10
#define LONGEST_PAUSE_MS 500
#define MAX_TTL 3600
#define OK 200
#define NO_ROOM 503

static struct asked {
  char name[MAX_NAME + 1]; // empty: free
  bool is_sent;
  long long until;
} asked[MAX_ASKED];
static enum stage { AWAY, ASKING, ASKED, OPEN } stage;
static size_t asked_count;
static char said[MAX_LINE * 4]; // what has come of the host's lines
static size_t said_size, unsent_size;
static char unsent[MAX_NAME + 2]; // of a line
static int pause_ms = FIRST_PAUSE_MS;
static long long again;

static void host_ready(struct watched *watched, uint32_t events);
static struct watched host = {.fd = -1, .ready = host_ready};

static void call_later(void) {
  forget(&host);
  stage = AWAY;
  again = milliseconds() + pause_ms;
  pause_ms = pause_ms * 2 < LONGEST_PAUSE_MS ? pause_ms * 2 : LONGEST_PAUSE_MS;
}

void hang_up_asking(void) {
  forget(&host);
  stage = AWAY, again = 0, pause_ms = FIRST_PAUSE_MS;
}

// Send lines as far as the host takes them.
static void send_names(void) {
  for (size_t i = 0; i < MAX_ASKED; i++) {
    if (unsent_size == 0 && *asked[i].name && !asked[i].is_sent) {
      unsent_size = (size_t)snprintf(unsent, sizeof unsent, "%s\n", asked[i].name);
      asked[i].is_sent = true;
    }
    if (unsent_size == 0) continue;
    ssize_t sent = send(host.fd, unsent, unsent_size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return call_later();
    if (sent > 0) memmove(unsent, unsent + sent, unsent_size -= (size_t)sent);
    if (unsent_size) return (void)watch(&host, EPOLLIN | EPOLLOUT);
  }
  watch(&host, EPOLLIN);
}

static void begin(void) {
  stage = OPEN, said_size = unsent_size = 0, pause_ms = FIRST_PAUSE_MS;
  for (size_t i = 0; i < MAX_ASKED; i++) asked[i].is_sent = false;
  send_names();
}

static void ask_proxy(void) {
  int sent = send_request(host.fd, HOST, PORT);
  if (sent < 0) return call_later();
  stage = sent ? ASKED : ASKING;
  watch(&host, sent ? EPOLLIN : EPOLLOUT);
}

static void call_host(void) {
  host.fd = call_proxy();
  if (host.fd < 0) call_later();
  else ask_proxy();
}

// Nobody answers; the programs are not kept waiting.
static void give_up(void) {
  for (size_t i = 0; i < MAX_ASKED; i++) {
    char name[MAX_NAME + 1];
    if (!*asked[i].name) continue;
    strcpy(name, asked[i].name);
    *asked[i].name = 0, asked_count--;
    answered(name, FAILED, 0);
  }
  call_later();
}

static bool take_line(char *line) {
  char *name = strtok(line, " "), *status = strtok(NULL, " "), *number = strtok(NULL, " ");
  unsigned ttl;
  if (!number || sscanf(number, "%u", &ttl) != 1) return false;
  enum answer answer = !strcmp(status, "found")   ? FOUND
                       : !strcmp(status, "empty") ? NO_ADDRESS
                       : !strcmp(status, "none")  ? NOTHING
                                                  : FAILED;
  for (size_t i = 0; i < MAX_ASKED; i++)
    if (*asked[i].name && !strcmp(asked[i].name, name)) {
      char copy[MAX_NAME + 1];
      strcpy(copy, name);
      *asked[i].name = 0, asked_count--;
      answered(copy, answer, ttl < MAX_TTL ? ttl : MAX_TTL);
      break;
    }
  return true;
}

static void hear(void) {
  ssize_t size = recv(host.fd, said + said_size, sizeof said - 1 - said_size, 0);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) return call_later();
  said_size += (size_t)size;
  said[said_size] = 0;
  char *line = said, *end;
  while ((end = strchr(line, '\n'))) {
    *end = 0;
    if (!take_line(line)) return call_later();
    line = end + 1;
  }
  said_size -= (size_t)(line - said);
  memmove(said, line, said_size + 1);
  if (said_size > MAX_LINE) call_later();
}

static void host_ready(struct watched *watched, uint32_t events) {
  int status = 0;
  if (stage == ASKING) return events & EPOLLOUT ? ask_proxy() : call_later();
  if (stage == OPEN) {
    if (events & EPOLLOUT) send_names();
    if (stage == OPEN && events & ~(uint32_t)EPOLLOUT) hear();
  } else if ((status = read_status(watched->fd)) == OK) begin();
  else if (status > 0 && status != NO_ROOM) give_up();
  else if (status) call_later();
}

void ask(const char *name) {
  struct asked *place = NULL;
  for (size_t i = 0; i < MAX_ASKED; i++) {
    if (*asked[i].name && !strcmp(asked[i].name, name)) return;
    if (!*asked[i].name) place = &asked[i];
  }
  if (!place) return answered(name, FAILED, 0);
  strcpy(place->name, name), asked_count++;
  place->is_sent = false, place->until = milliseconds() + PATIENCE_MS;
  if (stage == OPEN) send_names();
  else if (stage == AWAY && milliseconds() >= again) call_host();
}

void look_after_asking(void) {
  long long now = milliseconds();
  bool is_wanted = false;
  if (asked_count == 0) return;
  for (size_t i = 0; i < MAX_ASKED; i++) {
    char name[MAX_NAME + 1];
    if (!*asked[i].name) continue;
    if (now < asked[i].until) {
      is_wanted = true, due_at(asked[i].until);
      continue;
    }
    strcpy(name, asked[i].name);
    *asked[i].name = 0, asked_count--;
    answered(name, FAILED, 0);
  }
  if (!is_wanted || stage != AWAY) return;
  if (now >= again) call_host();
  if (stage == AWAY) due_at(again);
}
