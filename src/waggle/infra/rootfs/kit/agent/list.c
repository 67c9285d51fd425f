// SPDX-License-Identifier: Apache-2.0
// The method list_directory.
#include "paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_NAME 255
#define MOST_TEXT (3 * MAX_NAME) // bytes of a name, each of which may have become U+FFFD
#define ENTRY_LINE 120           // bytes of an entry in the answer, without its names
#define MOST_LINE 720000         // bytes of all entries there; the answer's limit is 786,432
#define ENTRY_MEMORY 1600        // bytes of memory that are left for an entry, and for what follows
#define REST_MEMORY (32 * 1024)

static const char *kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "symlink";
    case S_IFBLK:
    case S_IFCHR: return "device";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    default: return "unknown";
  }
}

// Entries share what most have in common.
static json_t *shared_kind(mode_t mode) {
  static json_t *kinds[16];
  json_t **kind = &kinds[(mode & S_IFMT) >> 12];
  if (!*kind) *kind = json_string(kind_of(mode));
  return json_incref(*kind);
}

static json_t *shared_mode(mode_t mode) {
  static json_t *modes[07777 + 1];
  json_t **number = &modes[mode & 07777];
  if (!*number) *number = json_integer(mode & 07777);
  return json_incref(*number);
}

// Whether the entry fits into the answer as JSON escapes it, in its LINE, and into memory. The answer
// is cut before it takes too much.
static bool has_room(const json_t *name, size_t raw, size_t *line) {
  size_t size = ENTRY_LINE + raw;
  for (const char *at = json_string_value(name); *at; at++)
    size += (unsigned char)*at < ' ' ? 6 : *at == '"' || *at == '\\' ? 2 : 1;
  *line += size;
  return *line <= MOST_LINE && memory_left() >= REST_MEMORY + ENTRY_MEMORY + raw;
}

// The entry, or NULL if it has no room.
static json_t *describe(const char *name, const struct stat *about, size_t *line) {
  char raw[(MOST_TEXT + 2) / 3 * 4 + 1] = "";
  size_t length = strnlen(name, MOST_TEXT);
  json_t *entry = NULL, *its_name = json_stringn(name, length);
  if (!its_name) {
    base64_encode(name, length, raw);
    raw[base64_size(length)] = 0;
    its_name = text(name, length, MOST_TEXT);
  }
  if (its_name && has_room(its_name, strlen(raw), line) && (entry = json_object()) &&
      json_object_set(entry, "name", its_name) == 0 &&
      json_object_set_new(entry, "kind", shared_kind(about->st_mode)) == 0 &&
      (!*raw || json_object_set_new(entry, "raw_name", json_string(raw)) == 0) &&
      add_facts(entry, about, shared_mode(about->st_mode))) {
    json_decref(its_name);
    return entry;
  }
  json_decref(its_name);
  json_decref(entry);
  return NULL;
}

// The next entry and what it is; false at the end. One that has just gone is none.
static const char *next_entry(DIR *directory, struct stat *about) {
  struct dirent *entry;
  while ((errno = 0, entry = readdir(directory))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (!about) return entry->d_name;
    memset(about, 0, sizeof *about);
    if (fstatat(dirfd(directory), entry->d_name, about, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 ||
        errno != ENOENT)
      return entry->d_name;
  }
  return NULL;
}

// False after `refuse`; MORE says whether some are left.
static bool fill(DIR *directory, json_t *entries, int64_t offset, size_t limit, bool *more) {
  size_t line = 0;
  struct stat about;
  const char *name = "";
  for (int64_t i = 0; i < offset && name; i++) name = next_entry(directory, NULL);
  while (name && (name = next_entry(directory, &about))) {
    *more = true;
    if (json_array_size(entries) == limit) return true;
    json_t *entry = describe(name, &about, &line);
    bool is_added = entry && json_array_append_new(entries, entry) == 0;
    if (!is_added && json_array_size(entries)) return true;
    if (!is_added) return refuse(INTERNAL_ERROR, NULL, NULL, "out of memory"), false;
    *more = false;
  }
  return errno == 0 || (refuse_errno("readdir"), false);
}

json_t *list_directory(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  const char *path = text_param(params, "path");
  int64_t limit = integer_param(params, "limit", MAX_ENTRIES);
  int fd = open_allowed(path, READ, OPEN_DIRECTORY, 0);
  if (fd < 0) return NULL;
  DIR *directory = fdopendir(fd);
  if (!directory) return refuse_errno(path), close(fd), NULL;
  bool more = false;
  json_t *entries = json_array();
  if (!entries) refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  bool is_filled = entries && fill(directory, entries, integer_param(params, "offset", 0),
                                   (size_t)(limit < MAX_ENTRIES ? limit : MAX_ENTRIES), &more);
  closedir(directory);
  if (is_filled) {
    json_t *result = json_pack("{s:o,s:b}", "entries", entries, "more", more);
    return result ? result : refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  }
  json_decref(entries);
  return NULL;
}
