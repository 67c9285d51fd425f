// SPDX-License-Identifier: Apache-2.0
// search [-i] [-n REGEX] [-x REGEX] [-t TEXT | -e REGEX] -m RESULTS -c CONTEXT -s SECONDS ROOT
// Finds what -n matches by its path below ROOT, or the lines in those files that hold TEXT or match
// an expression. PATH is empty when ROOT is a file. -i takes letters of ASCII in TEXT, and all
// letters in expressions, as the same.
// Prints NUL-terminated fields:
//   f PATH KIND SIZE                         a name that matches; KIND is f, d, l or o
//   m PATH LINE COLUMN BEFORE LINES          a line that matches, BEFORE of those LINES before it
//   e WHY ENTRIES FILES BINARY LARGE UNREADABLE   the end; WHY it came early, or empty
#include "files.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#define MAX_ENTRIES 200000
#define MAX_FILE (10l << 20)
#define MAX_TOTAL (512ll << 20)
#define MAX_PRINTED (1l << 20)

static struct walk walk;
static regex_t *wanted_name;
static long max_results, results, context, searched, binary, large, printed;
static long long total;

static char *shown; // a file as it is; `data` is what content.c made of it, as long
static const char *data;
static size_t data_size;

static void finish(const char *why) {
  put_text("e");
  put_text(why);
  const long counts[] = {walk.entries, searched, binary, large, walk.unreadable};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) put_number(counts[i]);
  put_flush();
}

// The time is up, wherever the search is but for the middle of a record.
static void on_alarm(int signal_number) {
  (void)signal_number;
  finish("time");
  _exit(0);
}

static void hold_alarm(bool held) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigprocmask(held ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static void counted(void) {
  if (++results >= max_results) walk.stopped = "results";
  else if (printed > MAX_PRINTED) walk.stopped = "output";
}

static const char *line_begin(const char *at) {
  while (at > shown && at[-1] != '\n') at--;
  return at;
}

static const char *line_end(const char *at) {
  const char *end = memchr(at, '\n', (size_t)(shown + data_size - at));
  return end ? end : shown + data_size;
}

static void put_match(const char *path, long line, const char *begin, const char *place) {
  const char *first = begin, *end = line_end(begin);
  long before = 0;
  for (; before < context && first > shown; before++) first = line_begin(first - 1);
  hold_alarm(true);
  put_text("m");
  put_text(walk.is_file ? "" : path);
  put_number(line);
  put_number(place - begin + 1);
  put_number(before);
  for (const char *at = first; at < begin; at = line_end(at) + 1) {
    printed += put_line(at, line_end(at), at);
    put("\n", 1);
  }
  printed += put_line(begin, end, place);
  for (long after = 0; after < context && end + 1 < shown + data_size; after++) {
    put("\n", 1);
    const char *next = end + 1;
    end = line_end(next);
    printed += put_line(next, end, next);
  }
  put("", 1);
  printed += (long)strlen(path) + 32;
  hold_alarm(false);
  counted();
}

static void search_data(const char *path) {
  long line = 1;
  const char *counted_to = data;
  for (const char *from = data, *at; from < data + data_size && !walk.stopped;) {
    if (!(at = next_match(from))) return;
    const char *begin = line_begin(shown + (at - data));
    const char *folded_begin = data + (begin - shown);
    for (; counted_to < folded_begin; counted_to++) line += *counted_to == '\n';
    put_match(path, line, begin, shown + (at - data));
    from = data + (line_end(begin) - shown) + 1;
  }
}

static void search_file(int directory, const char *name, const char *path) {
  struct stat about;
  int fd = open_regular(directory, name, &about);
  if (fd < 0) {
    walk.unreadable++;
    return;
  }
  ssize_t size = about.st_size > MAX_FILE ? MAX_FILE + 1 : read_up_to(fd, shown, MAX_FILE + 1);
  close(fd);
  if (size < 0) walk.unreadable++;
  else if (size > MAX_FILE) large++;
  else if (memchr(shown, 0, (size_t)size)) binary++;
  else {
    searched++;
    total += size;
    data_size = (size_t)size;
    data = content_of(shown, data_size);
    search_data(path);
    if (!walk.stopped && total > MAX_TOTAL) walk.stopped = "bytes";
  }
}

static const char *kind(mode_t mode) {
  return S_ISREG(mode) ? "f" : S_ISDIR(mode) ? "d" : S_ISLNK(mode) ? "l" : "o";
}

static void visit(int directory, const char *name, const char *path, const struct stat *about) {
  if (wanted_name && !matches(wanted_name, path)) return;
  if (seeks_content()) {
    if (S_ISREG(about->st_mode)) search_file(directory, name, path);
    return;
  }
  hold_alarm(true);
  put_text("f");
  put_text(walk.is_file ? "" : path);
  put_text(kind(about->st_mode));
  put_number(about->st_size);
  printed += (long)strlen(path) + 32;
  hold_alarm(false);
  counted();
}

static void take_options(int argc, char **argv) {
  const char *name = NULL, *pattern = NULL, *excluded = NULL;
  char *text = NULL;
  bool folds = false;
  for (int option; (option = getopt(argc, argv, "in:x:t:e:m:c:s:")) != -1;) switch (option) {
    case 'i': folds = true; break;
    case 'n': name = optarg; break;
    case 'x': excluded = optarg; break;
    case 't': text = optarg; break;
    case 'e': pattern = optarg; break;
    case 'm': max_results = strtol(optarg, NULL, 10); break;
    case 'c': context = strtol(optarg, NULL, 10); break;
    case 's': alarm((unsigned)strtoul(optarg, NULL, 10)); break;
    default: exit(2);
    }
  int flags = folds ? REG_ICASE : 0;
  if (name) wanted_name = compile(name, flags | REG_NOSUB);
  if (excluded) walk.exclude = compile(excluded, REG_NOSUB);
  seek_content(text, pattern, folds);
}

int search(int argc, char **argv) {
  walk.max_entries = MAX_ENTRIES;
  walk.visit = visit;
  signal(SIGALRM, on_alarm);
  take_options(argc, argv);
  shown = malloc(MAX_FILE + 1);
  if (optind + 1 != argc || !shown) return 2;
  if (!walk_tree(&walk, argv[optind])) return dprintf(2, "%s\n", strerror(errno)), 1;
  hold_alarm(true);
  finish(walk.stopped ? walk.stopped : "");
  return 0;
}
