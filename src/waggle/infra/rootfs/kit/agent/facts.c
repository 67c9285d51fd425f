// SPDX-License-Identifier: Apache-2.0
// Small parts of results, as the specification wants them: bounded numbers and texts.
#include "facts.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_NUMBER ((UINT64_C(1) << 53) - 1) // every JSON implementation keeps it exactly

json_t *short_text(const char *data, size_t most) { return text(data, strlen(data), most); }

json_t *number(uint64_t value) {
  return json_integer((json_int_t)(value > MAX_NUMBER ? MAX_NUMBER : value));
}

bool listed(json_t *list, json_t *entry, size_t most) {
  if (json_array_size(list) >= most) return json_decref(entry), false;
  return json_array_append_new(list, entry) == 0;
}

static int64_t nanoseconds(clockid_t clock) {
  struct timespec time = {0};
  clock_gettime(clock, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t nanoseconds_now(void) { return nanoseconds(CLOCK_REALTIME); }

double seconds_up(void) { return (double)nanoseconds(CLOCK_BOOTTIME) / 1e9; }

// As os-release(5): the shell's quotes and backslashes, but nothing that it would expand.
static void unquote(const char *from, char *to, size_t size) {
  char quote = 0;
  size_t used = 0;
  for (; *from && *from != '\n' && used < size - 1; from++) {
    if (*from == quote) quote = 0;
    else if (!quote && (*from == '"' || *from == '\'')) quote = *from;
    else if (!quote && (*from == ' ' || *from == '\t')) break;
    else if (*from == '\\' && quote != '\'' && from[1] && from[1] != '\n') to[used++] = *++from;
    else to[used++] = *from;
  }
  to[used] = 0;
}

void assigned(const char *lines, const char *name, char *to, size_t size) {
  size_t length = strlen(name);
  *to = 0;
  while (lines) {
    if (strncmp(lines, name, length) == 0 && lines[length] == '=')
      unquote(lines + length + 1, to, size);
    lines = strchr(lines, '\n');
    if (lines) lines++;
  }
}

bool has_capability(int capability) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &head, data)) return false;
  return data[capability / 32].effective & 1u << capability % 32;
}
