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

static bool to_host(const struct method *method, const char *subject, double seconds, int32_t code) {
  const char *name = method ? method->name : "";
  json_t *about = json_pack("{s:s,s:s,s:{s:s,s:s,s:o,s:f}}", "jsonrpc", "2.0", "method", "audit",
                            "params", "method", name, "outcome", outcome_of(code), "subject",
                            text(subject, strlen(subject), 120), "seconds", seconds);
  json_t *params = json_object_get(about, "params");
  if (lost) json_object_set_new(params, "lost", json_integer(lost));
  char line[1024];
  size_t size = about ? json_dumpb(about, line, sizeof line - 2, JSON_COMPACT) : 0;
  json_decref(about);
  if (size == 0 || size > sizeof line - 2) return false;
  line[size] = '\n', line[size + 1] = 0;
  return put_line(line);
}

// A name of a file is a guest's or a host's text: no line of the log ends where it says.
static void clean(char *to, const char *from, size_t size) {
  for (; *from && size > 1; from++, size--) *to++ = *from < ' ' || *from == 127 ? '?' : *from;
  *to = 0;
}

void note(const struct method *method, const char *subject, int64_t began, int32_t code) {
  if (!audits || (method && strcmp(method->name, "ping") == 0 && code == OK)) return;
  char shown[128], body[400], entry[420];
  double seconds = (double)(monotonic() - began) / 1e9;
  bool is_noted = true;
  clean(shown, subject, sizeof shown);
  snprintf(body, sizeof body, "waggle-agent[%d]: %s %s%s%s in %.3f s", (int)getpid(),
           method ? method->name : "?", shown, *shown ? " " : "", outcome_of(code), seconds);
  if (lost) snprintf(body + strlen(body), 40, " (%u not noted)", lost);
  snprintf(entry, sizeof entry, PRIORITY "%s", body);
  if (audits & AUDIT_SYSLOG) is_noted &= to_system_log(entry);
  snprintf(entry, sizeof entry, KERNEL_PRIORITY "%s\n", body);
  if (audits & AUDIT_KMSG) is_noted &= kernel_log >= 0 && write(kernel_log, entry, strlen(entry)) > 0;
  if (audits & AUDIT_PORT && has_host()) is_noted &= to_host(method, shown, seconds, code);
  lost = is_noted ? 0 : lost + 1;
}
