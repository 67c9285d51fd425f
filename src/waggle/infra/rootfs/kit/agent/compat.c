// SPDX-License-Identifier: Apache-2.0
// Debian builds libjansson.a for the GNU C library. Linked with musl, it lacks these, which the GNU
// headers put in the place of the functions that they call.
#include <features.h> // says which library this is

#ifndef __GLIBC__
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int __vsnprintf_chk(char *to, size_t most, int flag, size_t size, const char *format, va_list rest);
int __snprintf_chk(char *to, size_t most, int flag, size_t size, const char *format, ...);
long long __isoc23_strtoll(const char *text, char **end, int base);

int __vsnprintf_chk(char *to, size_t most, int flag, size_t size, const char *format, va_list rest) {
  (void)flag;
  return vsnprintf(to, most < size ? most : size, format, rest);
}

int __snprintf_chk(char *to, size_t most, int flag, size_t size, const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  int made = __vsnprintf_chk(to, most, flag, size, format, rest);
  va_end(rest);
  return made;
}

long long __isoc23_strtoll(const char *text, char **end, int base) { return strtoll(text, end, base); }
#endif
