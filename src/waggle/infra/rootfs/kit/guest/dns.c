// SPDX-License-Identifier: Apache-2.0
// Messages of DNS, RFC 1035: one question in, its answer out. Knows no sockets.
#include "reach.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 12, CLASS_INTERNET = 1, CLASS_ANY = 255, RECORD = 12, OPTION = 11, MAX_LABEL = 63 };
enum { IS_ANSWER = 0x80, KIND = 0x78, WANTS_RECURSION = 1, HAS_RECURSION = 0x80 };
#define PAYLOAD 1232 // bytes of a datagram that nothing on its way divides

static unsigned number(const unsigned char *at) { return (unsigned)at[0] << 8 | at[1]; }

// A name without pointers, from AT on; where it ends, or 0.
static size_t read_name(const unsigned char *message, size_t size, size_t at, struct question *q) {
  size_t length = 0;
  q->is_plain = true;
  while (at < size && message[at]) {
    size_t label = message[at++];
    if (label > MAX_LABEL || at + label >= size || length + label + 1 > MAX_NAME + 1) return 0;
    for (size_t i = 0; i < label; i++) {
      char c = (char)message[at + i];
      if (c >= 'A' && c <= 'Z') c = (char)(c | 32);
      if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
        q->is_plain = false;
      q->name[length++] = c ? c : '?';
    }
    q->name[length++] = '.';
    at += label;
  }
  if (length == 0) q->is_plain = false;
  q->name[length ? length - 1 : 0] = 0;
  return at < size ? at + 1 : 0;
}

// EDNS, RFC 6891: in a message with nothing else behind the question.
static bool is_option(const unsigned char *at, size_t size) {
  return size >= OPTION && at[0] == 0 && number(at + 1) == TYPE_OPT;
}

bool read_question(const unsigned char *message, size_t size, struct question *q) {
  memset(q, 0, sizeof *q);
  if (size < HEAD || message[2] & IS_ANSWER) return false;
  q->end = HEAD;
  if (message[2] & KIND) return q->code = NOT_IMPLEMENTED, true;
  size_t end = number(message + 4) == 1 ? read_name(message, size, HEAD, q) : 0;
  if (!end || end + 4 > size || number(message + 6) || number(message + 8))
    return q->code = FORMAT_ERROR, true;
  q->type = number(message + end);
  unsigned class = number(message + end + 2);
  q->end = end + 4;
  q->has_option = number(message + 10) && is_option(message + q->end, size - q->end);
  if (class != CLASS_INTERNET && class != CLASS_ANY) q->code = NOT_ALLOWED;
  return true;
}

static unsigned char *put2(unsigned char *at, unsigned value) {
  at[0] = (unsigned char)(value >> 8), at[1] = (unsigned char)value;
  return at + 2;
}

static unsigned char *put4(unsigned char *at, uint32_t value) {
  return put2(put2(at, value >> 16), value & 0xffff);
}

static unsigned char *put_name(unsigned char *at, const char *name) {
  while (*name) {
    size_t label = strcspn(name, ".");
    *at++ = (unsigned char)label;
    memcpy(at, name, label);
    at += label;
    name += label + (name[label] == '.');
  }
  *at++ = 0;
  return at;
}

size_t write_answer(const unsigned char *message, const struct question *q, int code,
                    uint32_t address, const char *name, unsigned ttl,
                    unsigned char out[MAX_ANSWER]) {
  bool has_one = code == NO_ERROR && (address || name);
  memcpy(out, message, q->end);
  out[2] = (unsigned char)(IS_ANSWER | (message[2] & (KIND | WANTS_RECURSION)));
  out[3] = (unsigned char)(HAS_RECURSION | code);
  put2(out + 4, q->end > HEAD);
  put2(out + 6, has_one);
  put4(out + 8, q->has_option);
  unsigned char *at = out + q->end;
  if (has_one) {
    at = put2(at, 0xc000 | HEAD); // the name of the question
    at = put2(at, name ? TYPE_PTR : TYPE_A);
    at = put2(at, CLASS_INTERNET);
    at = put4(at, ttl);
    unsigned char *data = at + 2;
    unsigned char *end = name ? put_name(data, name) : put4(data, address);
    put2(at, (unsigned)(end - data));
    at = end;
  }
  if (q->has_option) {
    memset(at, 0, OPTION);
    put2(at + 1, TYPE_OPT);
    put2(at + 3, PAYLOAD);
    at += OPTION;
  }
  return (size_t)(at - out);
}

bool address_in(const char *name, uint32_t *address) {
  *address = 0;
  for (int i = 0; i < 4; i++) {
    char *end;
    if (*name < '0' || *name > '9') return false;
    unsigned long part = strtoul(name, &end, 10);
    if (*end != '.' || part > 255) return false;
    *address |= (uint32_t)part << (8 * i);
    name = end + 1;
  }
  return strcmp(name, "in-addr.arpa") == 0;
}
