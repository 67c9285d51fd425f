// SPDX-License-Identifier: Apache-2.0
// Who is logged in: from utmp(5), and where that says nothing from the files of systemd-logind.
#include "facts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define USER_LOGIN 7     // utmp's USER_PROCESS
#define MAX_RECORDS 4096 // that are looked at
#define LOGIND "/run/systemd/sessions"

// glibc's record on x86-64, byte for byte: musl has none.
struct record {
  int16_t type, unused;
  int32_t pid;
  char line[32], id[4], user[32], host[256];
  int16_t termination, exit;
  int32_t session;
  uint32_t seconds, microseconds;
  int32_t address[4];
  char reserved[20];
};
_Static_assert(sizeof(struct record) == 384, "the size of utmp's records");

static json_t *session(json_t *user, json_t *terminal, json_t *host, uint64_t microseconds) {
  json_t *since = microseconds && microseconds < INT64_MAX / 1000
                      ? json_integer((json_int_t)microseconds * 1000)
                      : json_null();
  return json_pack("{s:o, s:o, s:o, s:o}", "user", user, "terminal", terminal, "remote_host", host,
                   "since", since);
}

static json_t *field(const char *data, size_t size) { return text(data, strnlen(data, size), size); }

static bool is_login(const struct record *record) {
  if (record->type != USER_LOGIN || record->pid <= 0 || !*record->user) return false;
  return kill(record->pid, 0) == 0 || errno == EPERM;
}

static bool list_records(const char *path, json_t *sessions) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct record record;
  bool are_all = true;
  for (int i = 0; fd >= 0 && i < MAX_RECORDS; i++) {
    if (read(fd, &record, sizeof record) != sizeof record) break;
    if (!is_login(&record)) continue;
    uint64_t since = (uint64_t)record.seconds * 1000000 + record.microseconds;
    if (!listed(sessions,
                session(field(record.user, sizeof record.user), field(record.line, sizeof record.line),
                        field(record.host, sizeof record.host), since),
                MAX_LISTED))
      are_all = false;
  }
  if (fd >= 0) close(fd);
  return are_all;
}

static json_t *assigned_text(const char *lines, const char *name) {
  char value[MAX_NAME + 1];
  assigned(lines, name, value, sizeof value);
  return short_text(value, MAX_NAME);
}

// NULL for what is no login of a person, or ends.
static json_t *logind_session(const char *lines) {
  char class[32], state[32], user[MAX_NAME + 1], since[32];
  assigned(lines, "CLASS", class, sizeof class);
  assigned(lines, "STATE", state, sizeof state);
  assigned(lines, "USER", user, sizeof user);
  assigned(lines, "REALTIME", since, sizeof since);
  if (strncmp(class, "user", 4) || strcmp(state, "closing") == 0 || !*user) return NULL;
  return session(short_text(user, MAX_NAME), assigned_text(lines, "TTY"),
                 assigned_text(lines, "REMOTE_HOST"), strtoull(since, NULL, 10));
}

static bool list_logind(json_t *sessions) {
  DIR *directory = opendir(LOGIND);
  char path[sizeof LOGIND + 1 + 256], lines[4096];
  struct stat status;
  bool are_all = true;
  int seen = 0;
  for (struct dirent *entry; directory && (entry = readdir(directory)) && seen < MAX_RECORDS; seen++) {
    snprintf(path, sizeof path, LOGIND "/%s", entry->d_name);
    if (lstat(path, &status) || !S_ISREG(status.st_mode)) continue; // a pipe of logind's beside each
    json_t *found = read_text(path, lines, sizeof lines) ? logind_session(lines) : NULL;
    if (found && !listed(sessions, found, MAX_LISTED)) are_all = false;
  }
  if (directory) closedir(directory);
  return are_all;
}

bool list_sessions(json_t *sessions) {
  bool are_all = list_records("/run/utmp", sessions);
  if (json_array_size(sessions) == 0) are_all = list_records("/var/run/utmp", sessions);
  return json_array_size(sessions) ? are_all : list_logind(sessions);
}
