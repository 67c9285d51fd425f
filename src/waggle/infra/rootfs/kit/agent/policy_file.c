// SPDX-License-Identifier: Apache-2.0
// Reads a policy file. Whatever is not as docs/guest-agent.md has it stops the start with a line that
// names file and place: an operator must not believe in a rule that the agent does not know.
#include "policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE 65536

unsigned audits = AUDIT_SYSLOG;
struct limits limits;

static const char *file;

static bool wrong(const char *place, const char *reason) {
  return fprintf(stderr, "waggle-agent: %s: %s: %s\n", file, place, reason), false;
}

// Whether OBJECT has no members but the NAMES, which end with NULL.
static bool has_only(const char *place, const json_t *object, const char *const *names) {
  const char *name;
  json_t *value;
  char where[256];
  if (!json_is_object(object)) return wrong(place, "must be an object");
  json_object_foreach((json_t *)object, name, value) {
    const char *const *known = names;
    while (*known && strcmp(*known, name)) known++;
    snprintf(where, sizeof where, "%s%s%s", *place == '.' ? "" : place, *place == '.' ? "" : ".", name);
    if (!*known) return wrong(where, "no such member");
  }
  return true;
}

static bool is_list(const char *place, const json_t *list, bool of_paths) {
  json_t *item;
  size_t i;
  char where[256], ended[520];
  if (!json_is_array(list) || json_array_size(list) > MAX_LISTED)
    return wrong(place, "must be a list of 64 strings at most");
  json_array_foreach(list, i, item) {
    const char *entry = json_string_value(item);
    snprintf(ended, sizeof ended, "%s/", entry ? entry : "");
    snprintf(where, sizeof where, "%s[%zu]", place, i);
    if (!entry || !*entry || strlen(entry) >= 512) return wrong(where, "must be a string");
    bool is_plain = entry[0] == '/' && !strstr(ended, "//") && !strstr(ended, "/./") &&
                    !strstr(ended, "/../");
    if (of_paths && !is_plain && strcmp(entry, "/"))
      return wrong(where, "must be an absolute path without '.', '..' or a slash at its end");
  }
  return true;
}

static bool take_methods(struct policy *policy, const json_t *methods) {
  static const char *const members[] = {"allow", "deny", NULL};
  for (size_t i = 0; i < METHOD_COUNT; i++)
    if (METHODS[i].is_default) policy->methods |= (uint64_t)1 << i;
  if (!methods) return true;
  if (!has_only("methods", methods, members)) return false;
  for (int part = 0; part < 2; part++) {
    const json_t *list = json_object_get(methods, members[part]);
    json_t *item;
    size_t i;
    char where[32];
    snprintf(where, sizeof where, "methods.%s", members[part]);
    if (!list) continue;
    if (!is_list(where, list, false)) return false;
    if (part == 0) policy->methods = 0; // instead of the default
    json_array_foreach(list, i, item) {
      const struct method *method = find_method(json_string_value(item));
      bool is_all = strcmp(json_string_value(item), "*") == 0;
      uint64_t bits = is_all ? UINT64_MAX : method ? (uint64_t)1 << (method - METHODS) : 0;
      snprintf(where, sizeof where, "methods.%s[%zu]", members[part], i);
      if (!bits) return wrong(where, "no such method");
      policy->methods = part == 0 ? policy->methods | bits : policy->methods & ~bits;
    }
  }
  return true;
}

static bool take_places(struct policy *policy, enum access access, const json_t *places) {
  static const char *const members[] = {"allow", "deny", NULL};
  const char *name = access == READ ? "read" : "write";
  char where[32];
  policy->allow[access] = json_pack("[ss]", "/tmp", "/var/tmp");
  policy->deny[access] = json_array();
  if (!places) return true;
  if (!has_only(name, places, members)) return false;
  for (int part = 0; part < 2; part++) {
    const json_t *list = json_object_get(places, members[part]);
    snprintf(where, sizeof where, "%s.%s", name, members[part]);
    if (list && !is_list(where, list, true)) return false;
    if (list) *(part == 0 ? &policy->allow[access] : &policy->deny[access]) = list;
  }
  return true;
}

static bool take_programs(struct policy *policy, const json_t *programs) {
  static const char *const members[] = {"path", "arguments", NULL};
  json_t *rule;
  char where[64];
  size_t i;
  if (!programs || json_is_null(programs)) return true;
  if (!json_is_array(programs) || json_array_size(programs) > MAX_LISTED)
    return wrong("exec", "must be null or a list of at most 64 rules");
  json_array_foreach(programs, i, rule) {
    snprintf(where, sizeof where, "exec[%zu]", i);
    if (!has_only(where, rule, members)) return false;
    const char *path = json_string_value(json_object_get(rule, "path"));
    snprintf(where, sizeof where, "exec[%zu].path", i);
    if (!path || (path[0] != '/' && strcmp(path, "*")) || strlen(path) >= 512)
      return wrong(where, "must be an absolute path, or *");
    snprintf(where, sizeof where, "exec[%zu].arguments", i);
    if (!is_list(where, json_object_get(rule, "arguments"), false)) return false;
  }
  policy->programs = programs;
  return true;
}

// The lowest of all policies holds.
static bool take_limits(const json_t *given) {
  static const char *const members[] = {"read_bytes", "write_bytes", "output_bytes", "timeout_seconds",
                                        "requests",   "processes",   NULL};
  static const int64_t most[] = {MAX_READ,    MAX_WRITE,    MAX_READ,
                                 MAX_SECONDS, MAX_REQUESTS, MAX_PROCESSES};
  static const int64_t usual[] = {MAX_READ, MAX_WRITE, 65536, 60, 8, 8};
  int64_t *held[] = {&limits.read_bytes,      &limits.write_bytes, &limits.output_bytes,
                     &limits.timeout_seconds, &limits.requests,    &limits.processes};
  if (given && !has_only("limits", given, members)) return false;
  for (int i = 0; members[i]; i++) {
    const json_t *value = json_object_get(given, members[i]);
    int64_t number = value ? json_integer_value(value) : usual[i];
    char where[48], reason[48];
    snprintf(where, sizeof where, "limits.%s", members[i]);
    snprintf(reason, sizeof reason, "must be 1 to %" PRId64, most[i]);
    if (number < 1 || number > most[i]) return wrong(where, reason); // another type is 0
    if (policy_count == 0 || number < *held[i]) *held[i] = number;
  }
  return true;
}

static bool take_audits(const json_t *list) {
  static const char *const names[] = {"syslog", "kmsg", "port"};
  unsigned wanted = list ? 0 : AUDIT_SYSLOG;
  json_t *item;
  size_t i;
  char where[32];
  if (list && !is_list("audit", list, false)) return false;
  json_array_foreach(list, i, item) {
    unsigned bit = 0;
    for (unsigned j = 0; j < LENGTH(names); j++)
      if (strcmp(names[j], json_string_value(item)) == 0) bit = 1u << j;
    snprintf(where, sizeof where, "audit[%zu]", i);
    if (!bit) return wrong(where, "must be syslog, kmsg or port");
    wanted |= bit;
  }
  audits = policy_count == 0 ? wanted : audits | wanted;
  return true;
}

static const json_t *read_file(void) {
  static char text[MAX_FILE + 1];
  json_error_t error;
  char place[64];
  memset(text, ' ', sizeof text);
  if (!read_text(file, text, sizeof text)) return wrong("cannot be read", strerror(errno)), NULL;
  size_t size = strlen(text); // up to the first NUL, which must be read_text's
  if (size == MAX_FILE) return wrong("size", "at most 65535 bytes"), NULL;
  if (memchr(text + size + 1, 0, MAX_FILE - size)) return wrong("text", "has a NUL"), NULL;
  const json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
  snprintf(place, sizeof place, "line %d, column %d", error.line, error.column);
  return root ? root : (wrong(place, error.text), NULL);
}

bool load_policy(const char *name) {
  static const char *const members[] = {"methods", "read",  "write", "exec",
                                        "users",   "limits", "audit", NULL};
  file = name;
  if (policy_count == MAX_POLICIES) return wrong("too many", "at most 4 policies");
  struct policy *policy = &policies[policy_count];
  const json_t *root = read_file();
  if (!root || !has_only(".", root, members)) return false;
  const json_t *users = json_object_get(root, "users");
  policy->file = name;
  policy->users = users ? users : json_pack("[s]", "nobody");
  if (!is_list("users", policy->users, false)) return false;
  if (json_array_size(policy->users) == 0) return wrong("users", "must name one at least");
  if (!take_methods(policy, json_object_get(root, "methods")) ||
      !take_places(policy, READ, json_object_get(root, "read")) ||
      !take_places(policy, WRITE, json_object_get(root, "write")) ||
      !take_programs(policy, json_object_get(root, "exec")) ||
      !take_limits(json_object_get(root, "limits")) || !take_audits(json_object_get(root, "audit")))
    return false;
  policy_count++;
  return true;
}
