// SPDX-License-Identifier: Apache-2.0
// What a search looks for in files, a text or an expression, and where it is next.
#include "files.h"

#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static regex_t *expression;
static char *text, *data;
static size_t text_size, data_size;
static bool folds;

static void fold(char *at, size_t size) {
  for (char *end = at + size; at < end; at++)
    if (*at >= 'A' && *at <= 'Z') *at |= 0x20;
}

void seek_content(char *wanted, const char *pattern, bool folded) {
  folds = folded;
  if (pattern) expression = compile(pattern, REG_NEWLINE | (folds ? REG_ICASE : 0));
  if (!wanted) return;
  text = wanted;
  text_size = strlen(text);
  if (folds) fold(text, text_size);
}

bool seeks_content(void) { return text || expression; }

const char *content_of(const char *shown, size_t size) {
  free(data);
  if (!(data = malloc(size + 1))) exit(2);
  memcpy(data, shown, size);
  data[data_size = size] = 0;
  if (text) {
    if (folds) fold(data, size);
    return data;
  }
  for (char *at = data; *at;) {
    wchar_t wide;
    int length = *at & 0x80 ? mbtowc(&wide, at, 4) : 1;
    if (length <= 0) *at = '?', length = 1;
    at += length;
  }
  return data;
}

const char *next_match(const char *from) {
  if (text) return memmem(from, (size_t)(data + data_size - from), text, text_size);
  regmatch_t match;
  if (regexec(expression, from, 1, &match, 0) != 0) return NULL;
  return from + match.rm_so < data + data_size ? from + match.rm_so : NULL;
}
