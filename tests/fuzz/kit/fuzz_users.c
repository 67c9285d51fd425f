// SPDX-License-Identifier: Apache-2.0
// The text of an image's /etc/passwd and /etc/group, and what its configuration says its user is:
// three texts with NUL between them.
#include "harness.h"
#include "users.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *texts[3], to[512];
  struct account found = {0};
  char *all = split(data, size, texts, 3);
  if (find_account(&found, texts[0], texts[1], texts[2]) && found.group_count > MAX_GROUPS) abort();
  has_name(texts[1], texts[0]);
  has_id(texts[1], found.uid);
  if (with_home(texts[1], found.uid, "/home/sandbox", to, sizeof to) && strlen(to) >= sizeof to)
    abort();
  free(all);
  return 0;
}
