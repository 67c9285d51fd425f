// SPDX-License-Identifier: Apache-2.0
// A walk through a tree in the order of names: bounded in entries and depth, never through a link,
// and never out of the tree into a file system that the kernel makes up.
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

// File systems that the kernel makes up, and EROFS, which is the kit.
static const unsigned long MADE_UP[] = {0x9fa0 /* proc */,       0x62656572 /* sysfs */,
                                        0x63677270 /* cgroup2 */, 0x27e0eb /* cgroup */,
                                        0x1cd1 /* devpts */,     0x64626720 /* debugfs */,
                                        0x74726163 /* tracefs */, 0xe0f5e1e2 /* erofs */};

static char path[MAX_RELATIVE + 512]; // of the entry at hand
static char plain[sizeof path];       // the same, fit for a regular expression

static int by_name(const void *one, const void *other) {
  return strcmp(*(char *const *)one, *(char *const *)other);
}

// The names in a directory, in order; NULL when memory or the walk's entries do not suffice.
static char **names_in(struct walk *walk, int directory, size_t *count) {
  size_t room = 0;
  char **names = NULL;
  int copy = dup(directory);
  DIR *listing = copy < 0 ? NULL : fdopendir(copy);
  *count = 0;
  for (struct dirent *entry; listing && (entry = readdir(listing));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (++walk->entries > walk->max_entries) {
      walk->stopped = "entries";
      break;
    }
    if (*count == room) {
      room = room ? 2 * room : 64;
      char **more = realloc(names, room * sizeof *names);
      if (!more) break;
      names = more;
    }
    if (!(names[*count] = strdup(entry->d_name))) break;
    ++*count;
  }
  if (listing) closedir(listing);
  if (names) qsort(names, *count, sizeof *names, by_name);
  return names;
}

static bool is_made_up(int directory) {
  struct statfs about;
  if (fstatfs(directory, &about)) return true;
  for (size_t i = 0; i < sizeof MADE_UP / sizeof *MADE_UP; i++)
    if ((unsigned long)about.f_type == MADE_UP[i]) return true;
  return false;
}

// Bytes that are no UTF-8 make a regular expression fail: they become '?'.
bool matches(regex_t *expression, const char *text) {
  strcpy(plain, text);
  for (char *at = plain; *at;) {
    wchar_t wide;
    int size = mbtowc(&wide, at, MB_CUR_MAX);
    if (size <= 0) *at = '?', size = 1;
    at += size;
  }
  return regexec(expression, plain, 0, NULL, 0) == 0;
}

static void walk_directory(struct walk *walk, int directory, dev_t device, size_t length,
                           int depth) {
  size_t count;
  char **names = names_in(walk, directory, &count);
  for (size_t i = 0; i < count; free(names[i++])) {
    size_t size = strlen(names[i]);
    struct stat about;
    if ((walk->stopped && strcmp(walk->stopped, "entries") != 0) || size > 255) continue;
    memcpy(path + length, names[i], size + 1);
    if (walk->exclude && matches(walk->exclude, path)) continue;
    if (fstatat(directory, names[i], &about, AT_SYMLINK_NOFOLLOW)) continue;
    walk->visit(directory, names[i], path, &about);
    if (!S_ISDIR(about.st_mode) || walk->stopped) continue;
    if (depth == MAX_TREE_DEPTH) {
      walk->unreadable++;
      continue;
    }
    int inner = openat(directory, names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inner < 0) {
      walk->unreadable++;
      continue;
    }
    if (about.st_dev == device || !is_made_up(inner)) {
      path[length + size] = '/';
      walk_directory(walk, inner, about.st_dev, length + size + 1, depth + 1);
    }
    close(inner);
  }
  free(names);
}

static bool walk_file(struct walk *walk, const char *root, const struct stat *about) {
  char parent[4200];
  const char *slash = strrchr(root, '/');
  if (!slash || !slash[1] || strlen(root) >= sizeof parent) return errno = ENOTDIR, false;
  memcpy(parent, root, (size_t)(slash - root) + 1);
  parent[slash - root + 1] = 0;
  int directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return false;
  strcpy(path, slash + 1);
  walk->entries = 1;
  walk->is_file = true;
  walk->visit(directory, slash + 1, path, about);
  close(directory);
  return true;
}

bool walk_tree(struct walk *walk, const char *root) {
  struct stat about;
  char real[PATH_MAX];
  if (!realpath(root, real) || stat(real, &about)) return false;
  if (!S_ISDIR(about.st_mode)) return walk_file(walk, real, &about);
  int directory = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return false;
  walk_directory(walk, directory, about.st_dev, 0, 1);
  close(directory);
  return true;
}
