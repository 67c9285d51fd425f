// SPDX-License-Identifier: Apache-2.0
// Answers: results, and refusals with their reason. Bytes are encoded while they are sent, so that
// nothing holds them twice.
#include "agent.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_MESSAGE 300
#define START "{\"jsonrpc\":\"2.0\",\"id\":"

static struct {
  enum code code;
  char message[MAX_MESSAGE];
  json_t *data;
} refusal;

void (*afterwards)(void);

json_t *refuse(enum code code, const char *name, const char *value, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(refusal.message, sizeof refusal.message, format, arguments);
  va_end(arguments);
  json_decref(refusal.data);
  refusal.code = code, refusal.data = NULL;
  if (!name) return NULL;
  spare_memory(true);
  refusal.data = json_object();
  json_object_set_new(refusal.data, name, text(value, strlen(value), MAX_MESSAGE));
  spare_memory(false);
  return NULL;
}

static const struct {
  int number;
  const char *name;
} ERRORS[] = {
    {EACCES, "EACCES"}, {EPERM, "EPERM"},     {ENOSPC, "ENOSPC"}, {EROFS, "EROFS"},
    {EDQUOT, "EDQUOT"}, {EFBIG, "EFBIG"},     {EIO, "EIO"},       {EISDIR, "EISDIR"},
    {ELOOP, "ELOOP"},   {ENOTDIR, "ENOTDIR"}, {EBUSY, "EBUSY"},   {ENAMETOOLONG, "ENAMETOOLONG"},
    {EEXIST, "EEXIST"}, {ENOEXEC, "ENOEXEC"}, {EINVAL, "EINVAL"}, {ETXTBSY, "ETXTBSY"},
    {EAGAIN, "EAGAIN"}, {ENOMEM, "ENOMEM"},   {EMFILE, "EMFILE"}, {ENFILE, "ENFILE"},
    {EXDEV, "EXDEV"},   {E2BIG, "E2BIG"},     {ENODEV, "ENODEV"}, {ENXIO, "ENXIO"},
};

json_t *refuse_errno(const char *what) {
  int error = errno;
  char number[32];
  if (error == ENOENT || error == ESRCH)
    return refuse(NOT_FOUND, "errno", error == ENOENT ? "ENOENT" : "ESRCH", "%s: %s", what,
                  strerror(error));
  for (size_t i = 0; i < LENGTH(ERRORS); i++)
    if (ERRORS[i].number == error)
      return refuse(FAILED, "errno", ERRORS[i].name, "%s: %s", what, strerror(error));
  snprintf(number, sizeof number, "%d", error);
  return refuse(FAILED, "errno", number, "%s: %s", what, strerror(error));
}

enum code refused_code(void) { return refusal.code; }

static json_t *refusal_object(void) {
  json_t *error = json_object();
  json_object_set_new(error, "code", json_integer(refusal.code));
  json_object_set_new(error, "message", text(refusal.message, strlen(refusal.message), MAX_MESSAGE));
  if (refusal.data) json_object_set(error, "data", refusal.data);
  return error;
}

static char *line(const char *id, const char *member, json_t *value) {
  spare_memory(true);
  char *body = json_dumps(value, JSON_COMPACT), *made = NULL;
  if (!body || asprintf(&made, START "%s,\"%s\":%s}\n", id, member, body) < 0) made = NULL;
  if (body) { // from jansson's allocator
    json_malloc_t take;
    json_free_t give_back;
    json_get_alloc_funcs(&take, &give_back);
    give_back(body);
  }
  json_decref(value);
  spare_memory(false);
  return made;
}

char *result_line(const char *id, json_t *result) { return line(id, "result", result); }

char *refusal_line(const char *id) {
  spare_memory(true); // until `line` has made it: a request that takes all of it is answered, too
  return line(id, "error", refusal_object());
}

// What a child writes, in few calls. A broken socket is noticed once, and then all is dropped.
static struct {
  int fd;
  bool is_broken;
  size_t size;
  char data[8192];
} sent;

static void flush(void) {
  for (size_t at = 0; at < sent.size && !sent.is_broken;) {
    ssize_t part = send(sent.fd, sent.data + at, sent.size - at, MSG_NOSIGNAL);
    if (part > 0) at += (size_t)part;
    else if (errno != EINTR) sent.is_broken = true;
  }
  sent.size = 0;
}

static int put(const char *data, size_t size, void *nothing) {
  (void)nothing;
  while (size > 0) {
    size_t part = sizeof sent.data - sent.size < size ? sizeof sent.data - sent.size : size;
    memcpy(sent.data + sent.size, data, part);
    sent.size += part, data += part, size -= part;
    if (sent.size == sizeof sent.data) flush();
  }
  return 0;
}

static void put_text(const char *data) { put(data, strlen(data), NULL); }

static void put_bytes(const struct bytes *bytes) {
  const unsigned char *data = bytes->data;
  char digits[4096];
  for (size_t at = 0; at < bytes->size; at += 3072) {
    size_t part = bytes->size - at < 3072 ? bytes->size - at : 3072;
    base64_encode(data + at, part, digits);
    put(digits, base64_size(part), NULL);
  }
}

static void put_head(int fd, enum code code, const char *id) {
  struct head head = {.code = code};
  snprintf(head.id, sizeof head.id, "%s", id);
  sent.fd = fd, sent.size = 0;
  put((const char *)&head, sizeof head, NULL);
}

static bool end(void) {
  flush();
  return !sent.is_broken;
}

bool send_result(int fd, const char *id, json_t *result, const struct bytes bytes[MAX_BYTES]) {
  put_head(fd, OK, id);
  if (!*id) return json_decref(result), end();
  put_text(START), put_text(id), put_text(",\"result\":{");
  spare_memory(true);
  json_dump_callback(result, put, NULL, JSON_COMPACT | JSON_EMBED);
  bool is_first = json_object_size(result) == 0;
  for (size_t i = 0; i < MAX_BYTES && bytes[i].name; i++, is_first = false)
    put_text(is_first ? "\"" : ",\""), put_text(bytes[i].name), put_text("\":\""), put_bytes(&bytes[i]),
        put_text("\"");
  put_text("}}\n");
  json_decref(result);
  return end();
}

bool send_refusal(int fd, const char *id) {
  put_head(fd, refusal.code, id);
  if (!*id) return end();
  put_text(START), put_text(id), put_text(",\"error\":");
  spare_memory(true);
  json_t *error = refusal_object();
  json_dump_callback(error, put, NULL, JSON_COMPACT);
  json_decref(error);
  put_text("}\n");
  return end();
}

bool send_ended(int fd) {
  put_head(fd, (enum code)ENDED, "");
  return end();
}
