// SPDX-License-Identifier: Apache-2.0
// get_users: who runs programs, counted over all processes, and who is logged in (sessions.c).
#include "facts.h"

#include <dirent.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_USERS 512
#define MAX_PROCESSES 32768 // that are looked at

struct user {
  uid_t uid;
  unsigned processes;
};

// The user whom a process runs for. False when it has ended.
static bool owner(const char *process, uid_t *uid) {
  char path[64], lines[1024];
  snprintf(path, sizeof path, "/proc/%.20s/status", process);
  if (!read_text(path, lines, sizeof lines)) return false;
  const char *line = strstr(lines, "\nUid:\t");
  return line && sscanf(line, "\nUid:\t%" SCNu32, uid) == 1;
}

static bool count_for(struct user *users, size_t *count, uid_t uid) {
  size_t i = 0;
  while (i < *count && users[i].uid != uid) i++;
  if (i == MAX_USERS) return false;
  if (i == *count) users[(*count)++] = (struct user){.uid = uid};
  users[i].processes++;
  return true;
}

// False when there are more processes or users than are counted.
static bool count_processes(struct user *users, size_t *count) {
  DIR *directory = opendir("/proc");
  unsigned seen = 0;
  bool are_all = true;
  uid_t uid;
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    if (++seen > MAX_PROCESSES) are_all = false;
    if (!are_all) break;
    if (owner(entry->d_name, &uid) && !count_for(users, count, uid)) are_all = false;
  }
  if (directory) closedir(directory);
  return are_all;
}

static int most_first(const void *left, const void *right) {
  const struct user *a = left, *b = right;
  if (a->processes != b->processes) return a->processes < b->processes ? 1 : -1;
  return a->uid < b->uid ? -1 : a->uid > b->uid;
}

static json_t *name_of(uid_t uid) {
  char digits[16];
  const struct passwd *entry = getpwuid(uid);
  if (entry && *entry->pw_name) return short_text(entry->pw_name, MAX_NAME);
  snprintf(digits, sizeof digits, "%" PRIu32, uid);
  return json_string(digits);
}

json_t *get_users(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  static struct user users[MAX_USERS];
  size_t count = 0;
  json_t *list = json_array(), *sessions = json_array();
  bool are_all = count_processes(users, &count) && count <= MAX_LISTED;
  qsort(users, count, sizeof *users, most_first);
  for (size_t i = 0; i < count && i < MAX_LISTED; i++)
    listed(list, json_pack("{s:o, s:o, s:o}", "uid", number(users[i].uid), "name", name_of(users[i].uid),
                           "processes", number(users[i].processes)),
           MAX_LISTED);
  if (!list_sessions(sessions)) are_all = false;
  return json_pack("{s:o, s:o, s:b}", "users", list, "sessions", sessions, "truncated", !are_all);
}
