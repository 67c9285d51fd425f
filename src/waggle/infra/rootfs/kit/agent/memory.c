// SPDX-License-Identifier: Apache-2.0
// The memory of JSON: whatever a host sends or a file system has in it, no more than MEMORY is taken.
// jansson reports what it does not get as an error.
#include "agent.h"

#include <stdlib.h>

struct header {
  _Alignas(16) size_t size; // so that what follows is aligned for anything, too
};

#define SPARE (128u << 10)
#define ROUNDING 16 // bytes that the allocator may add to each piece; there may be many small ones

static size_t taken, most = MEMORY;

static void *take(size_t size) {
  size_t whole = size + sizeof(struct header) + ROUNDING;
  if (size > most || taken + whole > most) return NULL;
  struct header *header = malloc(sizeof *header + size);
  if (!header) return NULL;
  header->size = whole, taken += whole;
  return header + 1;
}

static void give_back(void *data) {
  if (!data) return;
  struct header *header = (struct header *)data - 1;
  taken -= header->size;
  free(header);
}

void spare_memory(bool is_spared) { most = is_spared ? MEMORY + SPARE : MEMORY; }

size_t memory_left(void) { return MEMORY - taken; }

void bound_memory(void) { json_set_alloc_funcs(take, give_back); }
