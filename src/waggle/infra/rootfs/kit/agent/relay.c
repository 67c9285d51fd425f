// SPDX-License-Identifier: Apache-2.0
// The way of an answer from a child to the host. It is passed on as it comes, so that nothing holds it
// twice; only one is under way at a time, and whoever fails in the middle spoils no other line.
#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PATIENCE 5000000000ll // nanoseconds without the rest of an answer, while others wait
#define REFUSALS 8192         // bytes at most of those of one child, with their notes

static struct child *current; // whose answer is under way
static struct head head;
static size_t head_size;
static bool is_wanted, is_begun; // by a host; its first bytes are out
static int turn;

bool is_in_line(void) { return current && is_begun; }

void forget_host(void) {
  for (struct child *child = children; child < children + MAX_CHILDREN; child++)
    for (int i = 0; i < child->waiting_count; i++) child->waiting[i].id[0] = 0;
  is_wanted = is_begun = false;
}

static struct child *next_readable(void) {
  for (int i = 0; i < MAX_CHILDREN; i++) {
    struct child *child = &children[(turn + i) % MAX_CHILDREN];
    if (!child->pid || child->socket < 0 || !child->is_readable) continue;
    turn = (turn + i + 1) % MAX_CHILDREN;
    return child;
  }
  return NULL;
}

static void remove_waiting(struct child *child, int i) {
  child->waiting_count--;
  memmove(&child->waiting[i], &child->waiting[i + 1],
          (size_t)(child->waiting_count - i) * sizeof *child->waiting);
}

static int find_waiting(const struct child *child, const char *id) {
  for (int i = 0; i < child->waiting_count; i++)
    if (strcmp(child->waiting[i].id, id) == 0) return i;
  return -1;
}

// The child has ended, or its time is over: what it owes is refused.
static void give_up(struct child *child) {
  if (child == current && is_begun) put_line("\n");
  while (child->waiting_count) {
    struct waiting waiting = child->waiting[0];
    enum code code = child->is_late ? TIMED_OUT : INTERNAL_ERROR;
    remove_waiting(child, 0);
    refuse(code, NULL, NULL, child->is_late ? "It was not done in time." : "Its process was killed.");
    char *line = *waiting.id ? refusal_line(waiting.id) : NULL;
    if (line) put_line(line);
    free(line);
    note(waiting.method, waiting.subject, waiting.began, code);
  }
  let_go(child);
  if (child == current) current = NULL;
  head_size = 0, is_begun = false;
}

// Whoever is told of the end of a program, and did not only kill it, is the last one to be. Without a
// host it is kept for the next one.
static void done(void) {
  struct child *child = current;
  int i = find_waiting(child, head.id);
  current = NULL, head_size = 0;
  if (i < 0 && child->waiting_count) i = 0; // the host that asked has gone
  if (i < 0) return;
  struct waiting waiting = child->waiting[i];
  remove_waiting(child, i);
  note(waiting.method, waiting.subject, waiting.began, head.code);
  if (child->has_ended && is_wanted && *waiting.method->name != 'k') child->is_told = true;
  if (child->is_told && !child->waiting_count) let_go(child);
}

// True once the head is whole. Its line is wanted if the request is still known.
static bool take_head(ssize_t *got) {
  *got = recv(current->socket, (char *)&head + head_size, sizeof head - head_size, 0);
  if (*got <= 0) return false;
  head_size += (size_t)*got;
  if (head_size < sizeof head) return false;
  int i = find_waiting(current, head.id);
  is_wanted = *head.id && i >= 0, is_begun = false;
  if (i >= 0) current->waiting[i].due = INT64_MAX; // it is up to the host now
  if (head.code == ENDED) current->has_ended = true, current = NULL, head_size = 0;
  else if (!*head.id) done();
  return true;
}

// Pass on what there is of the line, and no more than that.
static bool pass_on(ssize_t *got) {
  char nowhere[4096], *place = nowhere;
  size_t room = is_wanted ? room_out(&place) : sizeof nowhere;
  if (room == 0) return false;
  *got = recv(current->socket, place, room, MSG_PEEK);
  if (*got <= 0) return true;
  char *end = memchr(place, '\n', (size_t)*got);
  if (end) *got = end + 1 - place;
  *got = recv(current->socket, place, (size_t)*got, 0);
  if (is_wanted) put_out((size_t)*got), is_begun = true;
  if (end) is_begun = false, done();
  return true;
}

// Nothing comes any more of a child that has ended, though others may still hold its socket, nor is
// it waited for if it is late.
static bool is_over(const struct child *child, ssize_t got) {
  return got == 0 || errno != EAGAIN || child->is_late || child->is_reaped;
}

bool relay(void) {
  char *place;
  ssize_t got = 1;
  if (!has_host() || (!current && !(current = next_readable()))) return false;
  struct child *child = current;
  if (child->is_late && !is_begun) got = 0;
  else if (head_size < sizeof head) take_head(&got);
  else if (!pass_on(&got)) return false;
  if (got > 0) return child->more_due = 0, true;
  if (got < 0 && errno == EINTR) return true;
  if (is_over(child, got)) return room_out(&place) >= REFUSALS && (give_up(child), true);
  child->is_readable = false;
  if (head_size == 0) return current = NULL, true; // another may have something
  if (!child->more_due) child->more_due = monotonic() + PATIENCE;
  return false;
}
