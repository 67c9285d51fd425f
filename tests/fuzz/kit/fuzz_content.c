// SPDX-License-Identifier: Apache-2.0
// What a client searches for, and the content of a file: an option letter, a text, and the rest.
// The expression is always the same: those of clients are the C library's business, and the kit's
// is another one than this machine's.
#include "harness.h"
#include "content.c"

regex_t *compile(const char *source, int flags) {
  static regex_t made;
  return regcomp(&made, source, REG_EXTENDED | flags) ? NULL : &made;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  char *parts[2];
  if (size < 2) return 0;
  char *all = split(bytes + 1, size - 1, parts, 2);
  bool is_text = bytes[0] & 1;
  text = NULL;
  expression = NULL;
  if (*parts[0]) seek_content(is_text ? parts[0] : NULL, is_text ? NULL : "[a-c]+$", bytes[0] & 2);
  if (seeks_content()) {
    size_t length = size - 1 - (size_t)(parts[1] - all);
    const char *content = content_of(parts[1], length), *at = content;
    for (int i = 0; i < 64 && (at = next_match(at)); i++)
      if (at < content || at++ >= content + length) abort();
  }
  if (expression) regfree(expression);
  free(all);
  return 0;
}
