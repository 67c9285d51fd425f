// SPDX-License-Identifier: Apache-2.0
// The audit: each request but ping is noted where the policy wants it, without ever waiting. What could
// not be noted is counted, and said with the next note.
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PRIORITY "<86>" // authpriv.info, as in RFC 5424
#define KERNEL_PRIORITY "<6>"
#define SUBJECT 120  // bytes of it that are noted
#define MAX_NOTE 880 // each of them may be escaped; the kernel takes lines of about 970 bytes
#define FORM (JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6))

static const struct {
  int32_t code;
  const char *name;
} OUTCOMES[] = {
    {OK, "ok"},
    {METHOD_NOT_FOUND, "method_not_found"},
    {INVALID_PARAMS, "invalid_params"},
    {INTERNAL_ERROR, "internal_error"},
    {DENIED, "denied"},
    {NOT_FOUND, "not_found"},
    {TOO_LARGE, "too_large"},
    {TIMED_OUT, "timed_out"},
    {BUSY, "busy"},
    {UNSUPPORTED, "unsupported"},
    {FAILED, "failed"},
};

static int system_log = -1, kernel_log = -1;
static unsigned lost;

// The log may not be there yet, or again.
static void find_system_log(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
  if (system_log < 0)
    system_log = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connect(system_log, (struct sockaddr *)&address, sizeof address))
    close(system_log), system_log = -1;
}

void open_audit(void) {
  if (audits & AUDIT_SYSLOG) find_system_log();
  if (audits & AUDIT_KMSG) kernel_log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
}

static bool to_system_log(const char *text) {
  for (int tries = 0; tries < 2; tries++) {
    if (system_log < 0) find_system_log();
    if (system_log < 0) return false;
    if (send(system_log, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
    if (errno == EAGAIN || errno == ENOBUFS) return false;
    close(system_log), system_log = -1; // it was started anew
  }
  return false;
}

static const char *outcome_of(int32_t code) {
  for (size_t i = 0; i < LENGTH(OUTCOMES); i++)
    if (OUTCOMES[i].code == code) return OUTCOMES[i].name;
  return "unknown";
}

const char *subject_of(const json_t *params) {
  const char *path = text_param(params, "path");
  if (!path) path = json_string_value(json_array_get(json_object_get(params, "argv"), 0));
  return path ? path : "";
}

// JSON in ASCII, on one line: whatever a file or a program is called, no line of a log and no member
// ends where its name says. A journal shows no line with a DEL, which JSON would leave as it is.
static json_t *about(const struct method *method, const char *subject, double seconds, int32_t code) {
  char shown[SUBJECT];
  size_t size = 0;
  for (; subject[size] && size < sizeof shown; size++)
    shown[size] = subject[size] == 127 ? '\xff' : subject[size]; // which text() takes for wrong
  json_t *note = json_pack("{s:s,s:s,s:o,s:f}", "method", method ? method->name : "", "outcome",
                           outcome_of(code), "subject", text(shown, size, SUBJECT), "seconds", seconds);
  if (note && lost) json_object_set_new(note, "lost", json_integer(lost));
  return note;
}

static bool to_host(const char *note) {
  char line[MAX_NOTE + 64];
  snprintf(line, sizeof line, "{\"jsonrpc\":\"2.0\",\"method\":\"audit\",\"params\":%s}\n", note);
  return put_line(line);
}

static bool to_kernel_log(const char *line) {
  return kernel_log >= 0 && write(kernel_log, line, strlen(line)) > 0;
}

void note(const struct method *method, const char *subject, int64_t began, int32_t code) {
  if (!audits || (method && strcmp(method->name, "ping") == 0 && code == OK)) return;
  char body[MAX_NOTE + 1], entry[MAX_NOTE + 64];
  spare_memory(true); // a request that takes all of it is noted, too
  json_t *made = about(method, subject, (double)(monotonic() - began) / 1e9, code);
  size_t size = made ? json_dumpb(made, body, MAX_NOTE, FORM) : 0;
  json_decref(made);
  spare_memory(false);
  bool is_noted = size > 0 && size <= MAX_NOTE;
  body[is_noted ? size : 0] = 0;
  snprintf(entry, sizeof entry, PRIORITY "waggle-agent[%d]: %s", (int)getpid(), body);
  if (is_noted && audits & AUDIT_SYSLOG) is_noted = to_system_log(entry);
  snprintf(entry, sizeof entry, KERNEL_PRIORITY "waggle-agent[%d]: %s\n", (int)getpid(), body);
  if (*body && audits & AUDIT_KMSG) is_noted &= to_kernel_log(entry);
  if (*body && audits & AUDIT_PORT && has_host()) is_noted &= to_host(body);
  lost = is_noted ? 0 : lost + 1;
}
