// SPDX-License-Identifier: Apache-2.0
// pack -m BYTES -n ENTRIES [-x REGEX] ROOT: a tree as records on stdout.
// A record is two fields, each NUL-terminated, and bytes: "KIND MODE MTIME SIZE" in decimal but
// for the octal mode, and the path; then SIZE bytes. Kinds: f file, d directory, l link (the bytes
// are its target), s skipped (the bytes say why), and e, the end, whose bytes are why it came early.
#include "files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct walk walk;
static long long bytes, max_bytes;

static void head(char kind, const struct stat *about, size_t size, const char *path) {
  char text[96];
  snprintf(text, sizeof text, "%c %o %lld %zu", kind, about ? about->st_mode & 07777u : 0u,
           about ? (long long)about->st_mtime : 0ll, size);
  put_text(text);
  put_text(path);
}

static void skipped(const char *path, const char *why) {
  head('s', NULL, strlen(why), path);
  put(why, strlen(why));
}

// Exactly as many bytes as the head promised, whatever happens to the file meanwhile.
static void contents(int fd, size_t size) {
  static char block[64 << 10];
  while (size) {
    size_t want = size < sizeof block ? size : sizeof block;
    ssize_t got = read_up_to(fd, block, want);
    if (got < 0) got = 0;
    memset(block + got, 0, want - (size_t)got);
    put(block, want);
    size -= want;
  }
}

static void pack_file(int directory, const char *name, const char *path) {
  struct stat about;
  int fd = open_regular(directory, name, &about);
  if (fd < 0) {
    skipped(path, strerror(errno));
    return;
  }
  if (about.st_size > max_bytes - bytes) {
    walk.stopped = "bytes";
  } else {
    bytes += about.st_size;
    head('f', &about, (size_t)about.st_size, path);
    contents(fd, (size_t)about.st_size);
  }
  close(fd);
}

static void pack_link(int directory, const char *name, const char *path, const struct stat *about) {
  char target[4096];
  ssize_t size = readlinkat(directory, name, target, sizeof target);
  if (size <= 0 || size == sizeof target) {
    skipped(path, "unreadable link");
    return;
  }
  head('l', about, (size_t)size, path);
  put(target, (size_t)size);
}

static void visit(int directory, const char *name, const char *path, const struct stat *about) {
  if (S_ISREG(about->st_mode)) pack_file(directory, name, path);
  else if (S_ISDIR(about->st_mode)) head('d', about, 0, path);
  else if (S_ISLNK(about->st_mode)) pack_link(directory, name, path, about);
  else skipped(path, "not a file, directory or link");
}

int pack(int argc, char **argv) {
  walk.visit = visit;
  for (int option; (option = getopt(argc, argv, "m:n:x:")) != -1;) switch (option) {
    case 'm': max_bytes = strtoll(optarg, NULL, 10); break;
    case 'n': walk.max_entries = strtol(optarg, NULL, 10); break;
    case 'x': walk.exclude = compile(optarg, REG_NOSUB); break;
    default: return 2;
    }
  if (optind + 1 != argc) return 2;
  if (!walk_tree(&walk, argv[optind])) return dprintf(2, "%s\n", strerror(errno)), 1;
  const char *why = walk.stopped ? walk.stopped : "";
  head('e', NULL, strlen(why), "");
  put(why, strlen(why));
  put_flush();
  return 0;
}
