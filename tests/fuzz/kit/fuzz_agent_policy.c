// SPDX-License-Identifier: Apache-2.0
// A policy file of the guest agent, and what it says of a path, a user and a command line: texts with
// NUL between them.
#include "agent_harness.h"

static char said[8192];
#define fprintf(stream, ...) snprintf(said, sizeof said, __VA_ARGS__)
#include "policy_file.c"
#undef fprintf

#define TEXTS 6

// As in main.c.
enum init init;
json_t *get_agent_info(const json_t *params, struct bytes *bytes) {
  return (void)params, (void)bytes, NULL;
}

static void check_limits(void) {
  const int64_t held[] = {limits.read_bytes,      limits.write_bytes, limits.output_bytes,
                          limits.timeout_seconds, limits.requests,    limits.processes};
  const int64_t most[] = {MAX_READ, MAX_WRITE, MAX_READ, MAX_SECONDS, MAX_REQUESTS, MAX_PROCESSES};
  for (size_t i = 0; i < LENGTH(held); i++)
    if (held[i] < 1 || held[i] > most[i]) abort();
}

// Nothing is allowed by two policies that one of them does not allow.
static void ask(char *const texts[TEXTS], bool allowed[]) {
  json_t *argv = json_array();
  for (int i = 2; i < TEXTS && *texts[i]; i++) {
    json_t *word = json_string(texts[i]);
    if (word) json_array_append_new(argv, word);
  }
  bool *to = allowed;
  for (size_t i = 0; i < METHOD_COUNT; i++) *to++ = allows_method(&METHODS[i]);
  *to++ = check_place(texts[0], READ), *to++ = check_place(texts[0], WRITE);
  *to++ = check_user(texts[1]) != NULL;
  bool has_program = json_array_size(argv) > 0;
  *to++ = has_program && check_program(argv, false);
  *to++ = has_program && check_program(argv, true);
  if (to[-1] && !to[-2]) abort(); // who brings variables needs no less
}

static bool load(const char *text, size_t size) {
  char path[64];
  int fd = file_of((const uint8_t *)text, size);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  bool is_good = load_policy(path);
  if (!is_good && (!*said || !strchr(said, '\n'))) abort();
  return close(fd), is_good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char NARROW[] = "{\"methods\":{\"allow\":[\"ping\",\"file_read\",\"exec_command\"]},"
                               "\"read\":{\"allow\":[\"/srv\"],\"deny\":[\"/srv/a\"]},"
                               "\"exec\":[{\"path\":\"/bin/a\",\"arguments\":[\"b*\",\"**\"]}]}";
  bool one[64] = {0}, both[64] = {0};
  char *texts[TEXTS + 1];
  char *all = split(data, size, texts, TEXTS + 1);
  json_set_alloc_funcs(take_piece, keep_piece);
  policy_count = 0, memset(policies, 0, sizeof policies), *said = 0;
  if (load(texts[0], strlen(texts[0]))) {
    check_limits();
    ask(texts + 1, one);
    json_t *info = policy_info();
    if (!json_is_object(info)) abort();
    if (!load(NARROW, sizeof NARROW - 1)) abort();
    ask(texts + 1, both);
    for (size_t i = 0; i < LENGTH(one); i++)
      if (both[i] && !one[i]) abort();
    if (both[METHOD_COUNT + 1]) {
      if (strncmp(texts[1], "/tmp", 4) && strncmp(texts[1], "/var/tmp", 8)) abort();
    }
  } else if (policy_count) {
    abort();
  }
  refuse(OK, NULL, NULL, "%s", "");
  free_pieces();
  free(all);
  return 0;
}
