// SPDX-License-Identifier: Apache-2.0
// What the policies allow. A request must be allowed by each of them.
#include "policy.h"

#include <fnmatch.h>
#include <string.h>

struct policy policies[MAX_POLICIES];
int policy_count;

bool has_policy(void) { return policy_count > 0; }

static bool deny(const char *entry, const char *format, const char *what) {
  refuse(DENIED, "policy", entry, format, what);
  return false;
}

bool allows_method(const struct method *method) {
  for (int i = 0; i < policy_count; i++)
    if (!(policies[i].methods >> (method - METHODS) & 1)) return false;
  return policy_count > 0;
}

bool check_method(const struct method *method) {
  return allows_method(method) || deny("methods", "The policy does not allow %s.", method->name);
}

static bool is_below(const char *path, const char *directory) {
  size_t length = strlen(directory);
  if (length == 1) return true; // the root
  return strncmp(path, directory, length) == 0 && (path[length] == '/' || !path[length]);
}

static const char *find_above(const json_t *list, const char *path) {
  json_t *item;
  size_t i;
  json_array_foreach(list, i, item)
    if (is_below(path, json_string_value(item))) return json_string_value(item);
  return NULL;
}

bool check_place(const char *path, enum access access) {
  bool is_read = access == READ;
  for (const struct policy *policy = policies; policy < policies + policy_count; policy++) {
    if (find_above(policy->deny[access], path))
      return deny(is_read ? "read.deny" : "write.deny", "The policy denies %s.", path);
    if (!find_above(policy->allow[access], path))
      return deny(is_read ? "read.allow" : "write.allow", "The policy does not allow %s.", path);
  }
  return policy_count > 0;
}

bool denies_places(enum access access) {
  for (int i = 0; i < policy_count; i++)
    if (json_array_size(policies[i].deny[access])) return true;
  return false;
}

// Each argument must match its pattern; a last `**` matches any rest.
static bool matches(const json_t *rule, const json_t *argv) {
  const char *path = json_string_value(json_object_get(rule, "path"));
  const json_t *patterns = json_object_get(rule, "arguments");
  size_t given = json_array_size(argv), count = json_array_size(patterns);
  if (strcmp(path, "*") && strcmp(path, json_string_value(json_array_get(argv, 0)))) return false;
  for (size_t i = 0; i < count; i++) {
    const char *pattern = json_string_value(json_array_get(patterns, i));
    if (i + 1 == count && strcmp(pattern, "**") == 0) return true;
    const char *argument = json_string_value(json_array_get(argv, i + 1));
    if (!argument || fnmatch(pattern, argument, 0) != 0) return false;
  }
  return given == count + 1;
}

static bool is_any_program(const json_t *rule) {
  const json_t *patterns = json_object_get(rule, "arguments");
  return strcmp(json_string_value(json_object_get(rule, "path")), "*") == 0 &&
         json_array_size(patterns) == 1 &&
         strcmp(json_string_value(json_array_get(patterns, 0)), "**") == 0;
}

// Variables such as LD_PRELOAD make any program of one: only who may run any brings some.
bool check_program(const json_t *argv, bool has_variables) {
  const char *path = json_string_value(json_array_get(argv, 0));
  for (const struct policy *policy = policies; policy < policies + policy_count; policy++) {
    bool is_allowed = false;
    json_t *rule;
    size_t i;
    json_array_foreach(policy->programs, i, rule) 
      is_allowed |= matches(rule, argv) && (!has_variables || is_any_program(rule));
    if (!is_allowed && has_variables)
      return deny("exec", "The policy does not allow %s with these arguments and variables.", path);
    if (!is_allowed) return deny("exec", "The policy does not allow %s with these arguments.", path);
  }
  return policy_count > 0;
}

static bool has_text(const json_t *list, const char *wanted) {
  json_t *item;
  size_t i;
  json_array_foreach(list, i, item)
    if (strcmp(json_string_value(item), wanted) == 0) return true;
  return false;
}

// The default is the first of the last policy, which is the narrowest: a host's follows the kit's.
const char *check_user(const char *name) {
  if (!name) name = json_string_value(json_array_get(policies[policy_count - 1].users, 0));
  for (int i = 0; i < policy_count; i++)
    if (!has_text(policies[i].users, name))
      return deny("users", "The policy does not allow the user %s.", name), NULL;
  return name;
}

static json_t *places_info(enum access access) {
  json_t *allow = json_array(), *deny = json_array(), *item;
  size_t j;
  for (int i = 0; i < policy_count; i++) {
    json_array_foreach(policies[i].allow[access], j, item) {
      bool is_common = json_array_size(allow) < MAX_LISTED && !has_text(allow, json_string_value(item));
      for (int other = 0; other < policy_count; other++)
        is_common &= find_above(policies[other].allow[access], json_string_value(item)) != NULL;
      if (is_common) json_array_append(allow, item);
    }
    json_array_foreach(policies[i].deny[access], j, item)
      if (json_array_size(deny) < MAX_LISTED) json_array_append(deny, item);
  }
  return json_pack("{s:o,s:o}", "allow", allow, "deny", deny);
}

// All rules that may count: a program must match one of each policy.
static json_t *programs_info(void) {
  json_t *rules = json_array(), *item;
  size_t j;
  for (int i = 0; i < policy_count; i++) {
    if (!policies[i].programs) return json_decref(rules), json_null();
    json_array_foreach(policies[i].programs, j, item)
      if (json_array_size(rules) < MAX_LISTED) json_array_append(rules, item);
  }
  return rules;
}

json_t *policy_info(void) {
  json_t *users = json_array(), *item;
  size_t j;
  json_array_foreach(policies[policy_count - 1].users, j, item) {
    bool is_common = true;
    for (int i = 0; i < policy_count; i++)
      is_common &= has_text(policies[i].users, json_string_value(item));
    if (is_common) json_array_append(users, item);
  }
  json_t *held = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "read_bytes", (json_int_t)limits.read_bytes,
                           "write_bytes", (json_int_t)limits.write_bytes, "output_bytes",
                           (json_int_t)limits.output_bytes, "timeout_seconds",
                           (json_int_t)limits.timeout_seconds, "requests", (json_int_t)limits.requests,
                           "processes", (json_int_t)limits.processes);
  return json_pack("{s:o,s:o,s:o,s:o,s:o}", "read", places_info(READ), "write", places_info(WRITE),
                   "exec", programs_info(), "users", users, "limits", held);
}
