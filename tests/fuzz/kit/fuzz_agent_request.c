// SPDX-License-Identifier: Apache-2.0
// What a host sends the guest agent: bytes of its port, from which lines are taken, requests read,
// checked and refused or carried out. Whatever would start a process or change something does not.
#include "agent_harness.h"

#include <sys/socket.h>

// What would be sent to the system's log.
static ssize_t sent_to_log(int fd, const void *data, size_t size, int flags);
#define send sent_to_log
#define connect(...) 0
#include "audit.c"
#undef send
#undef connect
#include "channel.c"
#define main agent_main
#include "main.c"
#undef main

static const char NARROW[] =
    "{\"methods\":{\"allow\":[\"*\"],\"deny\":[\"reboot\"]},\"read\":{\"allow\":[\"/srv\",\"/tmp\"],"
    "\"deny\":[\"/srv/a\"]},\"write\":{\"allow\":[\"/\"]},\"exec\":[{\"path\":\"/bin/a\",\"arguments\":"
    "[\"b*\",\"[a-c]?\",\"**\"]},{\"path\":\"*\",\"arguments\":[\"**\"]}],\"users\":[\"root\",\"nobody\"],"
    "\"audit\":[\"syslog\",\"port\"]}";
static int ends[2];
static size_t answered, free_memory;
static json_malloc_t take;
static json_free_t give_back;

static ssize_t sent_to_log(int fd, const void *data, size_t size, int flags) {
  (void)fd, (void)flags;
  const char *text = data, *note = memmem(data, size, "]: ", 3);
  if (!note || strncmp(text, "<86>waggle-agent[", 17)) abort();
  for (size_t i = 0; i < size; i++)
    if (text[i] < ' ' || text[i] > '~') abort();
  spare_memory(true);
  json_t *said = parsed_line(note + 3, size - (size_t)(note + 3 - text));
  if (json_object_size(said) < 4 || !json_is_string(json_object_get(said, "subject"))) abort();
  json_decref(said);
  spare_memory(false);
  return (ssize_t)size;
}

struct child children[MAX_CHILDREN]; // there are none
void watch(int fd, void *whose) { (void)fd, (void)whose; }
void unwatch(int fd) { (void)fd; }
int serve(int fd, int source) { return (void)source, fd; }
void forget_host(void) {}

// What a child would check first.
static void check_start(const json_t *params, const char *path, const char *user) {
  const json_t *argv = json_object_get(params, "argv");
  size_t count = 0;
  if (path) check_place(path, READ), check_place(path, WRITE);
  if (argv) check_program(argv, json_object_size(json_object_get(params, "environment")) > 0);
  check_user(user);
  static const char *const NAMES[] = {"data", "input"};
  for (size_t i = 0; i < LENGTH(NAMES); i++) {
    unsigned char *bytes = bytes_param(params, NAMES[i], &count);
    if (!bytes) continue;
    const char *given = text_param(params, NAMES[i]);
    char *again = malloc(base64_size(count) + 1);
    base64_encode(bytes, count, again);
    if (strlen(given) != base64_size(count) || memcmp(given, again, base64_size(count))) abort();
    free(again), free(bytes);
  }
}

bool start_child(const struct method *method, const json_t *params, const char *id) {
  if (strlen(id) >= MAX_ID) abort();
  check_start(params, text_param(params, "path"), text_param(params, "user"));
  note(method, subject_of(params), 0, OK);
  return method->where != PROGRAM || (refuse(BUSY, NULL, NULL, "%s", "busy"), false);
}

bool ask_program(const struct method *method, const json_t *params, const char *id) {
  if (!method || strlen(id) >= MAX_ID) abort();
  int64_t number = integer_param(params, "process", 0);
  return refuse(NOT_FOUND, NULL, NULL, "There is no process %d.", (int)number), false;
}

static void set_up(void) {
  char path[64];
  int fd = file_of((const uint8_t *)NARROW, sizeof NARROW - 1);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (!load_policy(path) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) abort();
  close(fd);
  use_channel(ends[0]);
  bound_memory();
  json_get_alloc_funcs(&take, &give_back);
  refuse(OK, NULL, NULL, "%s", "");
}

// Every line to the host is a note, or an answer with a result or a whole error.
static void check_line(const char *line, size_t size) {
  if (size == 0) return;
  spare_memory(true);
  json_t *said = parsed_line(line, size), *error = json_object_get(said, "error");
  if (!json_object_get(said, "method")) {
    json_t *id = json_object_get(said, "id");
    if (!json_is_null(id) && !json_is_integer(id) && !json_is_string(id)) abort();
    if (!error == !json_object_get(said, "result")) abort();
    if (error && json_integer_value(json_object_get(error, "code")) > PARSE_ERROR + 5000) abort();
    if (error && !json_string_length(json_object_get(error, "message"))) abort();
    answered++;
  }
  json_decref(said);
  spare_memory(false);
}

static void take_lines(void) {
  size_t length;
  bool is_too_long;
  for (char *line; (line = next_line(&length, &is_too_long));) {
    if (length >= MAX_LINE || line[length]) abort();
    if (is_too_long) refuse_line(TOO_LARGE, "The line is too long.");
    else take_request(line, length);
    for (char *end; out_from < out_size; out_from = (size_t)(end + 1 - out))
      if (!(end = memchr(out + out_from, '\n', out_size - out_from))) abort();
      else check_line(out + out_from, (size_t)(end - out) - out_from);
    refuse(OK, NULL, NULL, "%s", "");
    if (memory_left() != free_memory) abort();
  }
}

// Its first two bytes say how many of memory are left, so that a short request can take them all. The
// ping at the end is answered in any case.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char PING[] = "\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";
  if (size < 2) return 0;
  if (!take) set_up();
  void *rest = take(memory_left() - (size_t)(data[0] | data[1] << 8) - 64);
  if (!rest) abort();
  free_memory = memory_left(), data += 2, size -= 2;
  for (size_t part; size > 0; data += part, size -= part) {
    part = size < 32768 ? size : 32768;
    if (write(ends[1], data, part) != (ssize_t)part) abort();
    can_read = true;
    while (read_in() && in_size < MAX_LINE) continue;
    take_lines();
  }
  if (write(ends[1], PING, sizeof PING - 1) < 0) abort();
  can_read = true, answered = 0;
  while (read_in()) take_lines();
  take_lines();
  if (!answered) abort();
  give_back(rest);
  return 0;
}
