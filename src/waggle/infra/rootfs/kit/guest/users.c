// SPDX-License-Identifier: Apache-2.0
// Who a name or a number is, by the text of an image's /etc/passwd and /etc/group. Pure: no file is
// opened here, and whatever the text holds, nothing is read or written past its end.
#include "waggle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ID 2147483647u
#define MAX_LINE 8192
#define FIELDS 6 // name, password, uid, gid, comment, home; a group has name, password, gid, members

static bool parse_id(const char *text, unsigned *id) {
  size_t digits = strspn(text, "0123456789");
  unsigned long value = digits > 0 && digits <= 10 && !text[digits] ? strtoul(text, NULL, 10) : -1ul;
  if (value > MAX_ID) return false;
  *id = (unsigned)value;
  return true;
}

// What does not fit is left empty.
static void copy_text(char *to, size_t size, const char *from) {
  if (snprintf(to, size, "%s", from) >= (int)size) *to = 0;
}

// Cut the next line into fields, the missing ones empty, and move on; false at the end. A line that
// is too long to be an account is passed over.
static bool next_line(const char **text, char line[MAX_LINE], char *fields[FIELDS]) {
  while (**text) {
    const char *start = *text;
    size_t length = strcspn(start, "\n");
    *text = start + length + (start[length] == '\n');
    if (length >= MAX_LINE) continue;
    memcpy(line, start, length);
    line[length] = 0;
    char *rest = line;
    for (int i = 0; i < FIELDS; i++) fields[i] = rest ? strsep(&rest, ":") : line + length;
    return true;
  }
  return false;
}

// A number always means an id, as container engines have it.
static bool find_user(const char *passwd, const char *wanted, struct account *found) {
  char line[MAX_LINE], *fields[FIELDS];
  unsigned id = 0, uid, gid;
  bool by_id = parse_id(wanted, &id);
  while (next_line(&passwd, line, fields)) {
    if (!parse_id(fields[2], &uid) || !parse_id(fields[3], &gid)) continue;
    if (by_id ? uid != id : strcmp(fields[0], wanted) != 0) continue;
    found->uid = uid, found->gid = gid;
    copy_text(found->name, sizeof found->name, fields[0]);
    copy_text(found->home, sizeof found->home, fields[5]);
    return true;
  }
  return false;
}

static bool find_group(const char *group, const char *wanted, unsigned *gid) {
  char line[MAX_LINE], *fields[FIELDS];
  if (parse_id(wanted, gid)) return true;
  while (next_line(&group, line, fields))
    if (strcmp(fields[0], wanted) == 0 && parse_id(fields[2], gid)) return true;
  return false;
}

static bool is_member(char *members, const char *name) {
  for (char *member; (member = strsep(&members, ","));)
    if (strcmp(member, name) == 0) return true;
  return false;
}

static void join_groups(const char *group, struct account *account) {
  char line[MAX_LINE], *fields[FIELDS];
  unsigned gid;
  while (account->group_count < MAX_GROUPS && next_line(&group, line, fields))
    if (parse_id(fields[2], &gid) && gid != account->gid && is_member(fields[3], account->name))
      account->groups[account->group_count++] = gid;
}

bool find_account(struct account *account, const char *wanted, const char *passwd,
                  const char *group) {
  char user[MAX_USER + 1];
  struct account found = {.name = "sandbox"};
  size_t length = strcspn(wanted, ":");
  const char *wanted_group = wanted + length + (wanted[length] == ':');
  if (length > MAX_USER) return false;
  memcpy(user, wanted, length);
  user[length] = 0;
  bool is_listed = find_user(passwd, user, &found);
  if (!is_listed && !parse_id(user, &found.uid)) return false; // a bare number has group 0
  if (*wanted_group && !find_group(group, wanted_group, &found.gid)) return false;
  found.groups[found.group_count++] = found.gid;
  if (is_listed && !*wanted_group) join_groups(group, &found);
  *account = found;
  return true;
}

bool has_name(const char *text, const char *name) {
  size_t length = strlen(name);
  for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
    if (strncmp(text, name, length) == 0 && text[length] == ':') return true;
  return false;
}

bool has_id(const char *text, unsigned wanted) {
  char line[MAX_LINE], *fields[FIELDS];
  unsigned id;
  while (next_line(&text, line, fields))
    if (*fields[0] && parse_id(fields[2], &id) && id == wanted) return true;
  return false;
}

bool with_home(const char *passwd, unsigned uid, const char *home, char *to, size_t size) {
  char line[MAX_LINE], *fields[FIELDS];
  unsigned id, gid;
  const char *at = passwd;
  while (next_line(&at, line, fields)) {
    if (!parse_id(fields[2], &id) || !parse_id(fields[3], &gid) || id != uid) continue;
    if (fields[5] == fields[4]) return false; // the line ends before
    const char *start = at - (at[-1] == '\n');
    while (start > passwd && start[-1] != '\n') start--;
    const char *old = start + (fields[5] - line);
    int length = snprintf(to, size, "%.*s%s%s", (int)(old - passwd), passwd, home,
                          old + strlen(fields[5]));
    return length >= 0 && (size_t)length < size;
  }
  return false;
}
