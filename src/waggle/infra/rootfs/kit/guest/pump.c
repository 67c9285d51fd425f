// SPDX-License-Identifier: Apache-2.0
// Bytes both ways between a program and the proxy. Nothing is stored here: a piece is looked at, sent,
// and then taken as far as it was sent.
#include "reach.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define PIECE (128u << 10)
#define PIECES 4 // of one connection, before others have their turn

enum moved { MORE, EMPTY, FULL, ENDED, BROKEN };

static enum moved move(int from, int to) {
  static char piece[PIECE];
  for (int i = 0; i < PIECES; i++) {
    ssize_t size = recv(from, piece, sizeof piece, MSG_PEEK);
    if (size < 0) return errno == EAGAIN ? EMPTY : BROKEN;
    if (size == 0) return ENDED;
    ssize_t sent = send(to, piece, (size_t)size, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN ? FULL : BROKEN;
    if (recv(from, piece, (size_t)sent, MSG_TRUNC) != sent) return BROKEN;
    if (sent < size) return FULL;
    if ((size_t)size < sizeof piece) return EMPTY;
  }
  return MORE;
}

// One way; false when it is broken.
static bool carry_one(struct watched *from, struct watched *to, enum way *way) {
  if (*way == CLOSED) return true;
  enum moved moved = move(from->fd, to->fd);
  *way = moved == ENDED ? CLOSED : moved == FULL ? BLOCKED : FLOWING;
  if (moved == ENDED) shutdown(to->fd, SHUT_WR);
  return moved != BROKEN;
}

static bool wait_for(struct watched *side, enum way out_of, enum way into) {
  return watch(side, (out_of == FLOWING ? EPOLLIN : 0u) | (into == BLOCKED ? EPOLLOUT : 0u));
}

bool carry(struct pair *pair, struct watched *ready, uint32_t events, bool *is_broken) {
  struct watched *client = &pair->client, *proxy = &pair->proxy;
  bool has_more = events & ~(uint32_t)EPOLLOUT, has_room = events & ~(uint32_t)EPOLLIN;
  bool is_client = ready == client, good = true;
  if (is_client ? has_more : has_room) good = carry_one(client, proxy, &pair->up);
  if (good && (is_client ? has_room : has_more)) good = carry_one(proxy, client, &pair->down);
  bool is_over = pair->up == CLOSED && pair->down == CLOSED;
  if (good && !is_over)
    good = wait_for(client, pair->up, pair->down) && wait_for(proxy, pair->down, pair->up);
  *is_broken = !good;
  return good && !is_over;
}

static void end(struct watched *side, bool is_broken) {
  const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  if (is_broken && side->fd >= 0)
    setsockopt(side->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  forget(side);
}

void part(struct pair *pair, bool is_broken) {
  end(&pair->client, is_broken);
  end(&pair->proxy, is_broken);
}
