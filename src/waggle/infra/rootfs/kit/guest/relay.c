// SPDX-License-Identifier: Apache-2.0
// A connection from its program's first packet to its end: the proxy is asked, then it is refused or
// carried (pump.c). A proxy that does not answer is asked again: a resume takes it away for an instant.
#include "reach.h"
#include "waggle.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_RELAYS 1024
#define MAX_EARLY 48 // relays beside which one is accepted early: what finds no room would break
#define BACKLOG 512
#define PATIENCE_MS 10000 // with a proxy that is not there, or has no room
#define AWAITED_MS 10000  // until a program that is welcome has given up, and does not come
#define HELD_MS 150000    // until a program has given up, unjudged: its kernel tries for 127 s
#define FIRST_PAUSE_MS 10
#define LONGEST_PAUSE_MS 500
#define OK 200
#define NO_ROOM 503
enum { PORT_ACCEPTING = 1, PORT_HOLDING = 2 };
enum stage { CALLING, ASKING, ASKED, JUDGED };

static struct relay {
  struct pair pair; // first: what is watched leads to the relay
  enum stage stage;
  bool is_early, has_sent; // accepted before it is judged; has sent something
  struct call call;
  long long since, again; // milliseconds; when to call the proxy
  int pause;
  struct relay *next;
} *waiting; // those without their program
static unsigned count;
static struct watched accepting;

static void decide(const struct call *call, enum verdict verdict) {
  set_verdict(call, verdict);
  send_again(call);
}

static void stop_waiting(struct relay *relay) {
  struct relay **at = &waiting;
  while (*at && *at != relay) at = &(*at)->next;
  if (*at) *at = relay->next;
}

static void finish(struct relay *relay, bool is_broken) {
  if (relay->pair.client.fd < 0) decide(&relay->call, REFUSED);
  stop_waiting(relay);
  part(&relay->pair, is_broken);
  if (relay->stage == JUDGED) keep_one_ready(); // whoever had one connection may want the next
  free(relay);
  count--;
}

static void flow(struct relay *relay, struct watched *ready, uint32_t happened) {
  bool is_broken;
  if (!carry(&relay->pair, ready, happened, &is_broken)) finish(relay, is_broken);
}

static void call_later(struct relay *relay) {
  forget(&relay->pair.proxy);
  if (milliseconds() - relay->since > PATIENCE_MS) return finish(relay, true);
  relay->stage = CALLING;
  relay->again = milliseconds() + relay->pause;
  relay->pause = relay->pause * 2 < LONGEST_PAUSE_MS ? relay->pause * 2 : LONGEST_PAUSE_MS;
}

static void judged(struct relay *relay, int status) {
  bool may_wait = (status < 0 || status == NO_ROOM) && !relay->has_sent;
  if (status != OK) {
    distrust(&relay->call);
    if (!may_wait || !watch(&relay->pair.client, 0)) finish(relay, true);
    else call_later(relay);
    return;
  }
  trust(&relay->call);
  relay->stage = JUDGED, relay->since = milliseconds();
  if (relay->pair.client.fd >= 0) stop_waiting(relay), flow(relay, &relay->pair.proxy, EPOLLIN);
  else if (!relay->is_early) decide(&relay->call, WELCOME);
}

static void ask_proxy(struct relay *relay) {
  char literal[INET_ADDRSTRLEN];
  const char *host = name_of(ntohl(relay->call.to));
  if (!host) host = inet_ntop(AF_INET, &relay->call.to, literal, sizeof literal);
  int sent = send_request(relay->pair.proxy.fd, host, relay->call.to_port);
  if (sent < 0) return call_later(relay);
  relay->stage = sent ? ASKED : ASKING;
  if (!watch(&relay->pair.proxy, sent ? EPOLLIN : EPOLLOUT)) finish(relay, true);
}

static void call_for(struct relay *relay) {
  relay->pair.proxy.fd = call_proxy();
  if (relay->pair.proxy.fd < 0) call_later(relay);
  else ask_proxy(relay);
}

static void proxy_ready(struct watched *watched, uint32_t events) {
  struct relay *relay = (void *)((char *)watched - offsetof(struct relay, pair.proxy));
  if (relay->stage == ASKING) return events & EPOLLOUT ? ask_proxy(relay) : call_later(relay);
  if (relay->stage == JUDGED && relay->pair.client.fd < 0) { // its program is about to come
    if (events & (EPOLLERR | EPOLLHUP) || !watch(watched, EPOLLERR)) finish(relay, true);
    return;
  }
  if (relay->stage == JUDGED) return flow(relay, watched, events);
  if (events & EPOLLOUT) return flow(relay, watched, EPOLLOUT); // for a program that came early
  int status = read_status(watched->fd);
  if (status) judged(relay, status);
}

static void client_ready(struct watched *watched, uint32_t events) {
  struct relay *relay = (void *)((char *)watched - offsetof(struct relay, pair.client));
  if (relay->stage == JUDGED) return flow(relay, watched, events);
  if (events & (EPOLLERR | EPOLLHUP)) return finish(relay, true);
  relay->has_sent = true;
  flow(relay, watched, EPOLLIN);
}

static struct relay *waiting_for(const struct call *call) {
  struct relay *relay = waiting;
  while (relay && memcmp(&relay->call, call, CALL_KEY)) relay = relay->next;
  return relay;
}

static void take_call(const struct call *call) {
  uint32_t to = ntohl(call->to);
  struct relay *known_one = waiting_for(call);
  bool is_welcome = known_one && (known_one->stage == JUDGED || known_one->is_early);
  if (known_one) return is_welcome ? decide(call, WELCOME) : (void)0;
  bool is_nobodys = to >> (32 - STANDIN_BITS) == STANDINS >> (32 - STANDIN_BITS) && !name_of(to);
  struct relay *relay = is_nobodys || count >= MAX_RELAYS ? NULL : calloc(1, sizeof *relay);
  if (!relay) return decide(call, REFUSED);
  count++;
  *relay = (struct relay){.call = *call, .pause = FIRST_PAUSE_MS, .next = waiting};
  relay->since = milliseconds();
  relay->pair.client = (struct watched){.fd = -1, .ready = client_ready};
  relay->pair.proxy = (struct watched){.fd = -1, .ready = proxy_ready};
  waiting = relay;
  call_for(relay);
  if (waiting != relay || relay->stage != ASKED || count > MAX_EARLY || !is_trusted(call)) return;
  relay->is_early = true;
  decide(call, WELCOME);
}

void take_calls(void) {
  struct call call;
  while (next_call(&call)) take_call(&call);
}

static void accept_client(int client, const struct sockaddr_in *from) {
  struct sockaddr_in to;
  socklen_t size = sizeof to;
  struct call call = {.from = from->sin_addr.s_addr, .from_port = from->sin_port};
  bool good = getsockname(client, (void *)&to, &size) == 0;
  if (good) call.to = to.sin_addr.s_addr, call.to_port = ntohs(to.sin_port);
  struct relay *relay = good ? waiting_for(&call) : NULL;
  if (!relay || relay->pair.client.fd >= 0) return (void)close(client);
  relay->pair.client.fd = client;
  if (relay->stage == JUDGED) stop_waiting(relay);
  good = relay->stage != JUDGED || watch(&relay->pair.proxy, EPOLLIN);
  if (good && relay->stage >= ASKED) good = watch(&relay->pair.client, EPOLLIN);
  if (!good) finish(relay, true);
}

static void accept_one(struct watched *watched, uint32_t events) {
  struct sockaddr_in from;
  socklen_t size = sizeof from;
  (void)events;
  int fd = accept4(watched->fd, (void *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) accept_client(fd, &from);
}

static long long end_of(const struct relay *relay) {
  return relay->since + (relay->stage == JUDGED ? AWAITED_MS : HELD_MS);
}

void look_after_relays(void) {
  long long now = milliseconds();
  for (struct relay *relay = waiting, *next; relay; relay = next) {
    next = relay->next; // what follows ends at most this one
    if (now >= end_of(relay)) finish(relay, true);
    else if (relay->stage == CALLING && now >= relay->again) call_for(relay);
  }
  for (struct relay *relay = waiting; relay; relay = relay->next)
    due_at(relay->stage == CALLING ? relay->again : end_of(relay));
}

bool open_relays(int *to_accept, int *holding) {
  *to_accept = open_listener(SOCK_STREAM, PORT_ACCEPTING, BACKLOG);
  *holding = open_listener(SOCK_STREAM, PORT_HOLDING, 1);
  int on = 1; // what it accepts inherits that
  setsockopt(*to_accept, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  accepting = (struct watched){.fd = *to_accept, .ready = accept_one};
  return *to_accept >= 0 && *holding >= 0 && watch(&accepting, EPOLLIN);
}
