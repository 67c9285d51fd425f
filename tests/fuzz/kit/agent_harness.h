// SPDX-License-Identifier: Apache-2.0
// What the harnesses of the guest agent share: the memory of JSON, which ends with an input.
#ifndef AGENT_HARNESS_H
#define AGENT_HARNESS_H

#include "harness.h"
#include "agent.h"

// Policies live as long as the agent, and a harness reads one for each input.
static struct piece {
  struct piece *next;
  _Alignas(16) char data[];
} *pieces;

static inline void *take_piece(size_t size) {
  struct piece *piece = malloc(sizeof *piece + size);
  piece->next = pieces, pieces = piece;
  return piece->data;
}

static inline void keep_piece(void *data) { (void)data; }

static inline void free_pieces(void) {
  for (struct piece *piece; (piece = pieces);) pieces = piece->next, free(piece);
}

// What is read once stays: that is no leak.
const char *__asan_default_options(void) { return "detect_leaks=0"; }

int64_t monotonic(void) { return 1000000000; }

// One line of JSON, an object: checked as its reader would.
static inline json_t *parsed_line(const char *line, size_t size) {
  json_error_t error;
  for (size_t i = 0; i < size; i++)
    if ((unsigned char)line[i] < ' ') abort();
  json_t *made = json_loadb(line, size, JSON_REJECT_DUPLICATES, &error);
  if (!json_is_object(made)) abort();
  return made;
}

#endif
