// SPDX-License-Identifier: Apache-2.0
// The parameters of a request, checked against the list of its method before anything acts on them.
#include "agent.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ELEMENT 32768 // bytes of a text in a list or an object

static bool wrong(const char *name, const char *reason) {
  refuse(INVALID_PARAMS, "parameter", name, "%s: %s", name, reason);
  return false;
}

static bool is_path(const json_t *value) {
  return *json_string_value(value) == '/' && !has_dots(json_string_value(value));
}

static bool in_range(const struct param *param, int64_t number) {
  if (number >= param->least && number <= param->most) return true;
  refuse(INVALID_PARAMS, "parameter", param->name, "%s: must be %" PRId64 " to %" PRId64,
         param->name, param->least, param->most);
  return false;
}

static bool check_texts(const struct param *param, const json_t *value) {
  const char *key;
  json_t *item;
  size_t i, count = json_is_array(value) ? json_array_size(value) : json_object_size(value);
  if (!in_range(param, (int64_t)count)) return false;
  json_array_foreach(value, i, item)
    if (!json_is_string(item) || json_string_length(item) >= MAX_ELEMENT)
      return wrong(param->name, "must be a list of strings under 32 KiB");
  json_object_foreach((json_t *)value, key, item)
    if (!json_is_string(item) || json_string_length(item) >= MAX_ELEMENT || !*key || strchr(key, '='))
      return wrong(param->name, "must be an object of strings under 32 KiB");
  return true;
}

static bool check_base64(const struct param *param, const json_t *value) {
  size_t length = json_string_length(value);
  if (length > base64_size((size_t)param->most)) {
    refuse(TOO_LARGE, "parameter", param->name, "%s: at most %" PRId64 " bytes", param->name,
           param->most);
    return false;
  }
  if (base64_decode(json_string_value(value), length, NULL) < 0)
    return wrong(param->name, "must be base64 with padding");
  return true;
}

static bool check_value(const struct param *param, const json_t *value) {
  size_t length = json_is_string(value) ? json_string_length(value) : 0;
  switch (param->kind) {
    case INTEGER:
      if (!json_is_integer(value)) return wrong(param->name, "must be an integer");
      return in_range(param, json_integer_value(value));
    case BOOLEAN: return json_is_boolean(value) || wrong(param->name, "must be true or false");
    case TEXT:
      if (!json_is_string(value) || length > (size_t)param->most || length < (size_t)param->least)
        return wrong(param->name, "must be a string of fitting length");
      return true;
    case ABSOLUTE_PATH:
      if (!json_is_string(value) || length >= MAX_PATH || !is_path(value))
        return wrong(param->name, "must be an absolute path of at most 4095 bytes without '..'");
      return true;
    case BASE64:
      if (!json_is_string(value)) return wrong(param->name, "must be base64 with padding");
      return check_base64(param, value);
    case TEXTS:
      if (!json_is_array(value)) return wrong(param->name, "must be a list of strings");
      return check_texts(param, value);
    case TEXTS_BY_NAME:
      if (!json_is_object(value)) return wrong(param->name, "must be an object of strings");
      return check_texts(param, value);
  }
  return false;
}

static const struct param *find(const struct method *method, const char *name) {
  for (const struct param *param = method->params; param < method->params + MAX_PARAMS; param++)
    if (param->name && strcmp(param->name, name) == 0) return param;
  return NULL;
}

// A parameter that is null is one that is missing.
bool check_params(const struct method *method, const json_t *params) {
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)params, name, value) {
    const struct param *param = find(method, name);
    if (!param) return wrong(name, "no such parameter");
    if (!json_is_null(value) && !check_value(param, value)) return false;
  }
  for (const struct param *param = method->params; param < method->params + MAX_PARAMS; param++)
    if (param->is_required && (!(value = json_object_get(params, param->name)) || json_is_null(value)))
      return wrong(param->name, "is missing");
  return true;
}

int64_t integer_param(const json_t *params, const char *name, int64_t otherwise) {
  const json_t *value = json_object_get(params, name);
  return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

bool boolean_param(const json_t *params, const char *name, bool otherwise) {
  const json_t *value = json_object_get(params, name);
  return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

const char *text_param(const json_t *params, const char *name) {
  return json_string_value(json_object_get(params, name));
}

unsigned char *bytes_param(const json_t *params, const char *name, size_t *size) {
  const json_t *value = json_object_get(params, name);
  if (!json_is_string(value)) return NULL;
  size_t length = json_string_length(value);
  unsigned char *made = malloc(length / 4 * 3 + 1);
  ssize_t got = made ? base64_decode(json_string_value(value), length, made) : -1;
  if (got < 0) return free(made), NULL;
  *size = (size_t)got;
  return made;
}
