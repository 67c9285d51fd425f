// SPDX-License-Identifier: Apache-2.0
// Works on trees of files for the host, as the user that runs it, in one run instead of thousands
// of SFTP requests, and in images that have no tools at all. Its commands:
//   search   names and contents (search.c)
//   pack     a tree to records on stdout (pack.c)
//   unpack   records on stdin to a tree (unpack.c)
//   watch    names of what changes, while it goes on (watch.c)
// The host takes everything it prints for a claim. Exit codes: 0 done, 1 the root cannot be opened
// (the reason is on stderr), 2 wrong usage.
#include "files.h"
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_MEMORY (512ul << 20)
#define WIDTH 300 // bytes shown of a line
#define LEAD 80   // of these before the place, in a line that is longer
#define CUT "\xe2\x80\xa6"

static char buffer[64 << 10];
static size_t used;

void put_flush(void) {
  if (used && !write_exactly(1, buffer, used)) _exit(3);
  used = 0;
}

void put(const void *data, size_t size) {
  if (size > sizeof buffer - used) put_flush();
  if (size > sizeof buffer) {
    if (!write_exactly(1, data, size)) _exit(3);
    return;
  }
  memcpy(buffer + used, data, size);
  used += size;
}

void put_text(const char *text) { put(text, strlen(text) + 1); }

void put_number(long long number) {
  char text[32];
  snprintf(text, sizeof text, "%lld", number);
  put_text(text);
}

static bool continues(const char *at) { return (*at & 0xc0) == 0x80; }

long put_line(const char *begin, const char *end, const char *focus) {
  if (end > begin && end[-1] == '\r') end--;
  const char *from = begin, *to = end;
  if (end - begin > WIDTH) {
    if (focus - begin > LEAD) from = focus - LEAD;
    if (from > end - WIDTH) from = end - WIDTH;
    to = from + WIDTH;
    while (from > begin && from < to && continues(from)) from++;
    while (to < end && to > from && continues(to)) to--;
  }
  if (from > begin) put(CUT, strlen(CUT));
  put(from, (size_t)(to - from));
  if (to < end) put(CUT, strlen(CUT));
  return to - from + 16;
}

regex_t *compile(const char *expression, int flags) {
  char why[128];
  regex_t *compiled = malloc(sizeof *compiled);
  int code = compiled ? regcomp(compiled, expression, REG_EXTENDED | flags) : REG_ESPACE;
  if (code == 0) return compiled;
  regerror(code, NULL, why, sizeof why);
  dprintf(2, "%s\n", why);
  exit(2);
}

int open_regular(int directory, const char *name, struct stat *about) {
  int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return -1;
  if (fstat(fd, about) == 0 && S_ISREG(about->st_mode)) return fd;
  close(fd);
  return errno = EINVAL, -1;
}

ssize_t read_up_to(int fd, char *into, size_t size) {
  size_t have = 0;
  while (have < size) {
    ssize_t got = read(fd, into + have, size - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    have += (size_t)got;
  }
  return (ssize_t)have;
}

int main(int argc, char **argv) {
  const char *command = argc > 1 ? argv[1] : "";
  setrlimit(RLIMIT_AS, &(struct rlimit){MAX_MEMORY, MAX_MEMORY});
  setlocale(LC_CTYPE, "C.UTF-8");
  if (strcmp(command, "search") == 0) return search(argc - 1, argv + 1);
  if (strcmp(command, "pack") == 0) return pack(argc - 1, argv + 1);
  if (strcmp(command, "unpack") == 0) return unpack(argc - 1, argv + 1);
  if (strcmp(command, "watch") == 0) return watch(argc - 1, argv + 1);
  dprintf(2, "waggle: not a command: %s\n", command);
  return 2;
}
