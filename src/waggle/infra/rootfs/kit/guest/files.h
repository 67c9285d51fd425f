// SPDX-License-Identifier: Apache-2.0
// What the parts of `files` share; files.c says what it is.
#ifndef WAGGLE_FILES_H
#define WAGGLE_FILES_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#define MAX_TREE_DEPTH 100
#define MAX_RELATIVE (MAX_TREE_DEPTH * 256)

// A walk through a tree, by name, links never followed. `visit` sees each entry that `exclude`
// leaves, with the directory it lies in; its `path` is relative to the root.
struct walk {
  regex_t *exclude;
  long entries, max_entries, unreadable;
  bool is_file;        // the root is no directory
  const char *stopped; // why the walk ended early, in one word; NULL while it goes on
  void (*visit)(int directory, const char *name, const char *path, const struct stat *about);
};

// Walk ROOT: an absolute path of a directory, or of a file, which is visited as its own name.
// Returns false, with errno, when there is no such thing or it cannot be opened.
bool walk_tree(struct walk *walk, const char *root);

// Open a regular file and nothing else, without waiting; -1 with errno.
int open_regular(int directory, const char *name, struct stat *about);

// Read SIZE bytes, fewer at the end; negative with errno.
ssize_t read_up_to(int fd, char *buffer, size_t size);

// Compile an extended regular expression; ends with code 2 and the reason when it is malformed.
regex_t *compile(const char *expression, int flags);

// Whether a path matches; bytes that are no UTF-8 count as '?'.
bool matches(regex_t *expression, const char *path);

// Write bytes to stdout; ends the program when nobody reads them.
void put(const void *data, size_t size);
// Write one NUL-terminated field.
void put_text(const char *text);
void put_number(long long number);
void put_flush(void);
// Write a line, or so much of it around FOCUS as is shown, in whole characters; returns about how
// many bytes that were.
long put_line(const char *begin, const char *end, const char *focus);

// content.c: what a search looks for in files: a text, or else an expression; neither means names.
void seek_content(char *text, const char *pattern, bool folds);
bool seeks_content(void);
// What of a file's SIZE bytes is searched, as long as they are and NUL-terminated: folded for a
// text, valid UTF-8 for an expression. It lives until the next call.
const char *content_of(const char *shown, size_t size);
// Where the next match begins, from the beginning of a line on; NULL when there is none.
const char *next_match(const char *from);

// batch.c: note the name of what has changed, or that anything may have.
void note(const char *name);
void note_many(void);
// Milliseconds until the batch is due, 0 if it is; IDLE when there is none.
int until_batch(int idle);
void send_batch(void);

int search(int argc, char **argv);
int pack(int argc, char **argv);
int unpack(int argc, char **argv);
int watch(int argc, char **argv);

#endif
