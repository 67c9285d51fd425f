// SPDX-License-Identifier: Apache-2.0
// The memory of JSON: whatever a host sends or a file system has in it, no more than MEMORY is taken.
// Where jansson makes or writes a value, it reports what it does not get as an error. Its parser does
// not: it goes on with half of a string, of which it reads and writes beyond the end (lex_save in its
// load.c). So a parser that gets no more is left at once, and all that it has taken is given back.
#include "agent.h"

#include <setjmp.h>
#include <stdlib.h>

struct header {
  _Alignas(16) uint32_t size; // so that what follows is aligned for anything, too
  uint32_t place;             // of what the parser has taken, from 1 on
};

#define SPARE (128u << 10)
#define ROUNDING 16 // bytes that the allocator may add to each piece; there may be many small ones
#define MAX_PARSED (MEMORY / (sizeof(struct header) + ROUNDING))

static size_t taken, most = MEMORY, parsed_count;
static struct header *parsed[MAX_PARSED];
static jmp_buf no_memory;
static bool is_parsing;

static void *take(size_t size) {
  size_t whole = size + sizeof(struct header) + ROUNDING;
  bool is_bounded = size <= most && taken + whole <= most && (!is_parsing || parsed_count < MAX_PARSED);
  struct header *header = is_bounded ? malloc(sizeof *header + size) : NULL;
  if (!header && is_parsing) longjmp(no_memory, 1);
  if (!header) return NULL;
  *header = (struct header){.size = (uint32_t)whole};
  if (is_parsing) parsed[parsed_count++] = header, header->place = (uint32_t)parsed_count;
  taken += whole;
  return header + 1;
}

static void give_back(void *data) {
  if (!data) return;
  struct header *header = (struct header *)data - 1, *last;
  if (header->place) { // the last one gets it
    last = parsed[--parsed_count];
    parsed[header->place - 1] = last, last->place = header->place;
  }
  taken -= header->size;
  free(header);
}

json_t *parse_line(const char *line, size_t size, json_error_t *error) {
  const size_t before = parsed_count; // a request that is still there
  json_t *made;
  if (setjmp(no_memory) == 0) {
    is_parsing = true;
    made = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, error);
    is_parsing = false;
    return made;
  }
  is_parsing = false;
  while (parsed_count > before) give_back(parsed[parsed_count - 1] + 1);
  return *error->text = 0, NULL;
}

void spare_memory(bool is_spared) { most = is_spared ? MEMORY + SPARE : MEMORY; }

size_t memory_left(void) { return MEMORY - taken; }

void bound_memory(void) { json_set_alloc_funcs(take, give_back); }
