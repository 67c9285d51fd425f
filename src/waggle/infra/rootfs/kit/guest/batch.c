// SPDX-License-Identifier: Apache-2.0
// Names of what has changed, on their way to the host: a batch at a time, each name once in it, and
// no name but an empty one where they would be too many.
#include "files.h"
#include "waggle.h"

#include <string.h>

#define MAX_NAMES 100
#define MAX_BYTES (32u << 10)
#define BATCH_MS 200 // from the first change until the names are sent

static char batch[MAX_BYTES];
static size_t used;
static int names;
static bool is_many;
static long long since; // when the first change came; 0 while there is none

void note_many(void) {
  is_many = true;
  if (!since) since = milliseconds();
}

void note(const char *name) {
  size_t size = strlen(name) + 1;
  if (is_many) return;
  for (const char *at = batch; at < batch + used; at += strlen(at) + 1)
    if (strcmp(at, name) == 0) return;
  if (names == MAX_NAMES || size > sizeof batch - used) return note_many();
  memcpy(batch + used, name, size);
  used += size, names++;
  if (!since) since = milliseconds();
}

int until_batch(int idle) {
  long long left = since + BATCH_MS - milliseconds();
  return !since ? idle : left > 0 ? (int)left : 0;
}

void send_batch(void) {
  if (is_many) put_text("");
  else put(batch, used);
  put_flush();
  used = 0, names = 0, is_many = false, since = 0;
}
