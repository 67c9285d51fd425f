// SPDX-License-Identifier: Apache-2.0
// Base64 with padding, as in RFC 4648, section 4.
#include "agent.h"

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_size(size_t size) { return (size + 2) / 3 * 4; }

void base64_encode(const void *data, size_t size, char *to) {
  const unsigned char *at = data;
  for (; size >= 3; size -= 3, at += 3) {
    unsigned word = (unsigned)at[0] << 16 | (unsigned)at[1] << 8 | at[2];
    *to++ = DIGITS[word >> 18], *to++ = DIGITS[word >> 12 & 63];
    *to++ = DIGITS[word >> 6 & 63], *to++ = DIGITS[word & 63];
  }
  if (size == 0) return;
  unsigned word = (unsigned)at[0] << 16 | (size == 2 ? (unsigned)at[1] << 8 : 0);
  *to++ = DIGITS[word >> 18], *to++ = DIGITS[word >> 12 & 63];
  *to++ = size == 2 ? DIGITS[word >> 6 & 63] : '=', *to++ = '=';
}

static int digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// The last bits of an unfinished group must be zero: each text of bytes has one form.
ssize_t base64_decode(const char *text, size_t length, unsigned char *to) {
  size_t made = 0, padding = 0;
  if (length % 4) return -1;
  if (length && text[length - 1] == '=') padding = text[length - 2] == '=' ? 2 : 1;
  for (size_t i = 0; i < length; i += 4) {
    size_t digits = i + 4 == length ? 4 - padding : 4;
    unsigned word = 0;
    for (size_t j = 0; j < 4; j++) {
      int value = j < digits ? digit(text[i + j]) : 0;
      if (value < 0) return -1;
      word = word << 6 | (unsigned)value;
    }
    if (digits < 4 && word & (digits == 3 ? 0xffu : 0xffffu)) return -1;
    for (size_t j = 0; j < digits - 1; j++, made++)
      if (to) to[made] = (unsigned char)(word >> (16 - 8 * j));
  }
  return (ssize_t)made;
}
