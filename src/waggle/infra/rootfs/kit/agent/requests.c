// SPDX-License-Identifier: Apache-2.0
// Requests: one line, checked as JSON, as a request, by the policy and by its method, in this order.
#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(char *line) {
  if (line) put_line(line); // there is room: the loop sees to it
  free(line);
}

void refuse_line(enum code code, const char *message) {
  refuse(code, NULL, NULL, "%s", message);
  put(refusal_line("null"));
}

// Before anything recurses into it. Brackets in strings do not count.
static bool is_too_deep(const char *line, size_t size) {
  int depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < size; i++) {
    if (in_text && line[i] == '\\') i++;
    else if (line[i] == '"') in_text = !in_text;
    else if (!in_text && (line[i] == '{' || line[i] == '[') && ++depth > MAX_DEPTH) return true;
    else if (!in_text && (line[i] == '}' || line[i] == ']')) depth--;
  }
  return false;
}

// The id as JSON: "null" where there is none that counts, and empty for a notification.
static bool read_id(const json_t *request, char id[MAX_ID]) {
  const json_t *given = json_object_get(request, "id");
  *id = 0;
  if (!given) return true;
  strcpy(id, "null");
  if (!json_is_integer(given) && !json_is_string(given)) return false;
  if (json_is_string(given) && json_string_length(given) > 64) return false;
  spare_memory(true);
  size_t size = json_dumpb(given, id, MAX_ID - 1, JSON_ENCODE_ANY);
  spare_memory(false);
  return id[size] = 0, true;
}

static const char *fault_of(const json_t *request) {
  const char *name, *version = json_string_value(json_object_get(request, "jsonrpc"));
  const json_t *params = json_object_get(request, "params");
  json_t *value;
  if (!version || strcmp(version, "2.0")) return "jsonrpc must be \"2.0\".";
  if (!json_is_string(json_object_get(request, "method"))) return "method must be a string.";
  if (params && !json_is_object(params)) return "params must be an object.";
  json_object_foreach((json_t *)request, name, value)
    if (strcmp(name, "jsonrpc") && strcmp(name, "id") && strcmp(name, "method") &&
        strcmp(name, "params"))
      return "A request has no members but jsonrpc, id, method and params.";
  return NULL;
}

static bool answer_here(const struct method *method, const json_t *params, const char *id) {
  struct bytes none[MAX_BYTES] = {{0}};
  int64_t began = monotonic();
  refuse(TOO_LARGE, NULL, NULL, TOO_MUCH); // unless the handler knows better
  json_t *result = method->handle(params, none);
  if (!result) return false;
  if (*id) put(result_line(id, result));
  else json_decref(result);
  note(method, "", began, OK);
  return true;
}

static void carry_out(const json_t *request, const char *id) {
  const char *name = json_string_value(json_object_get(request, "method"));
  const json_t *params = json_object_get(request, "params");
  const struct method *method = find_method(name);
  int64_t began = monotonic();
  if (!method) {
    refuse(METHOD_NOT_FOUND, NULL, NULL, "There is no method %.64s.", name);
  } else if (check_method(method) && check_params(method, params)) {
    if (method->where == HERE && answer_here(method, params, id)) return;
    if (method->where == CHILD && start_child(method, params, id)) return;
    if (method->where == PROGRAM &&
        (json_object_get(params, "process") ? ask_program : start_child)(method, params, id))
      return;
  }
  if (*id) put(refusal_line(id));
  note(method, method ? subject_of(params) : name, began, refused_code());
}

void take_request(char *line, size_t size) {
  json_error_t error;
  char id[MAX_ID];
  if (size == 0) return;
  if (is_too_deep(line, size)) return refuse_line(PARSE_ERROR, "It is nested too deeply.");
  json_t *request = parse_line(line, size, &error);
  if (!request) {
    bool is_large = !*error.text;
    return refuse_line(is_large ? TOO_LARGE : PARSE_ERROR, is_large ? "It is too large." : error.text);
  }
  bool has_id = json_is_object(request) && read_id(request, id);
  const char *fault = json_is_array(request) ? "Batches are not supported."
                      : !json_is_object(request) ? "A request is an object."
                      : !has_id ? "id must be an integer or a string of at most 64 bytes."
                                : fault_of(request);
  if (!fault) carry_out(request, id);
  else {
    refuse(INVALID_REQUEST, NULL, NULL, "%s", fault);
    put(refusal_line(has_id && *id ? id : "null"));
  }
  json_decref(request);
}
