// SPDX-License-Identifier: Apache-2.0
// What is answered to a question for a name. It waits here until the host has said whether the name
// exists; what is this machine's own is known without it.
#include "reach.h"
#include "waggle.h"

#include <string.h>
#include <strings.h>
#include <unistd.h>

#define MAX_WAITING 256
#define OWN_TTL 60

static struct waiting {
  bool is_taken;
  struct origin origin;
  struct question question;
  unsigned char head[MAX_NAME + 20]; // of the message, to the question's end
} waiting[MAX_WAITING];

void forget_caller(const struct caller *caller) {
  for (size_t i = 0; i < MAX_WAITING; i++)
    if (waiting[i].is_taken && waiting[i].origin.caller == caller) waiting[i].is_taken = false;
}

static void answer(const struct origin *origin, const unsigned char *head, const struct question *q,
                   int code, uint32_t address, const char *name, unsigned ttl) {
  unsigned char data[2 + MAX_ANSWER];
  send_answer(origin, data, write_answer(head, q, code, address, name, ttl, data + 2));
}

static bool ends_with(const char *name, const char *end) {
  size_t size = strlen(name), end_size = strlen(end);
  return size >= end_size && !strcmp(name + size - end_size, end);
}

static bool is_own(const char *name) {
  char host[65] = "";
  gethostname(host, sizeof host - 1);
  return !strcmp(name, "localhost") || ends_with(name, ".localhost") ||
         (*host && !strcasecmp(name, host));
}

static const char *pointed_at(const char *name) {
  uint32_t address;
  if (!address_in(name, &address)) return NULL;
  return address >> 24 == 127 || address == OWN_ADDRESS ? "localhost" : name_of(address);
}

static void answer_found(const struct origin *origin, const unsigned char *head,
                         const struct question *q, enum answer found, unsigned ttl) {
  bool has_address = q->type == TYPE_A || q->type == TYPE_ANY;
  int code = found == NOTHING ? NO_SUCH_NAME : found == FAILED ? SERVER_FAILURE : NO_ERROR;
  uint32_t address = found == FOUND && has_address ? standin_for(q->name) : 0;
  answer(origin, head, q, code, address, NULL, ttl);
}

static void put_off(const struct origin *origin, const unsigned char *head,
                    const struct question *q) {
  struct waiting *place = NULL;
  for (size_t i = 0; i < MAX_WAITING && !place; i++)
    if (!waiting[i].is_taken) place = &waiting[i];
  if (!place || q->end > sizeof place->head)
    return answer(origin, head, q, SERVER_FAILURE, 0, NULL, 0);
  place->is_taken = true, place->origin = *origin, place->question = *q;
  memcpy(place->head, head, q->end);
  ask(q->name);
}

void take_question(const struct origin *origin, const unsigned char *data, size_t size) {
  struct question q;
  unsigned ttl = 0;
  if (!read_question(data, size, &q)) return;
  if (q.code) return answer(origin, data, &q, q.code, 0, NULL, 0);
  const char *name = q.type == TYPE_PTR ? pointed_at(q.name) : NULL;
  if (name) return answer(origin, data, &q, NO_ERROR, 0, name, OWN_TTL);
  if (!q.is_plain || ends_with(q.name, ".arpa"))
    return answer(origin, data, &q, NO_SUCH_NAME, 0, NULL, 0);
  bool has_address = q.type == TYPE_A || q.type == TYPE_ANY;
  if (is_own(q.name))
    return answer(origin, data, &q, NO_ERROR, has_address ? INADDR_LOOPBACK : 0, NULL, OWN_TTL);
  enum answer found = known(q.name, &ttl);
  if (found == UNKNOWN) put_off(origin, data, &q);
  else answer_found(origin, data, &q, found, ttl);
}

void answered(const char *name, enum answer found, unsigned ttl) {
  if (ttl) learn(name, found, ttl);
  for (size_t i = 0; i < MAX_WAITING; i++) {
    if (!waiting[i].is_taken || strcmp(waiting[i].question.name, name)) continue;
    waiting[i].is_taken = false;
    answer_found(&waiting[i].origin, waiting[i].head, &waiting[i].question, found, ttl);
  }
}
