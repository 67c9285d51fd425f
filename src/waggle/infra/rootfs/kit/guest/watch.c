// SPDX-License-Identifier: Apache-2.0
// watch [-x REGEX] PATH
// Names what changes at PATH while it goes on: a file, or a directory with what is below it, but for
// what -x matches, other file systems and the directories after the nearest 256. Links are followed
// in PATH only. Prints NUL-terminated records: paths below PATH, of a file its name. An empty one
// means that anything may have changed; the first one does, and from then on nothing is missed.
// Ends when PATH is gone, and when nobody reads any more.
#include "files.h"
#include "waggle.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define MAX_DIRECTORIES 256
#define MAX_SCANNED 200000 // entries of a directory
#define LOOK_MS 1000       // between looks whether PATH is there
#define CHANGES                                                                                    \
  (IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO)
#define ENDS (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)

static struct directory {
  int wd;
  char *path; // below the root, with a slash at its end; empty for the root
} directories[MAX_DIRECTORIES];
static size_t count;

static char root[PATH_MAX];
static const char *only; // the name to look for, if PATH is a file
static regex_t *exclude;
static dev_t device; // of the root
static ino_t inode;
static int queue;
static bool is_over;

static struct directory *find(int wd) {
  for (size_t i = 0; i < count; i++)
    if (directories[i].wd == wd) return &directories[i];
  return NULL;
}

static void forget(struct directory *directory) {
  free(directory->path);
  *directory = directories[--count];
}

// Those below PATH are watched no more: they have moved away, and may come back by another name.
static void forget_below(const char *path) {
  for (size_t i = count; i-- > 1;) {
    if (strncmp(directories[i].path, path, strlen(path)) != 0) continue;
    inotify_rm_watch(queue, directories[i].wd);
    forget(&directories[i]);
  }
}

// Watch a directory, which may be watched already; false with errno.
static bool add(const char *path) {
  char whole[2 * PATH_MAX];
  struct stat about;
  snprintf(whole, sizeof whole, "%s/%s", root, path);
  if (*path && (lstat(whole, &about) || about.st_dev != device)) return false;
  int wd = inotify_add_watch(queue, whole, CHANGES | ENDS | IN_ONLYDIR | IN_DONT_FOLLOW);
  if (wd < 0) return false;
  struct directory *known = find(wd);
  if (known) return true;
  char *copy = strdup(path);
  if (!copy || count == MAX_DIRECTORIES) return inotify_rm_watch(queue, wd), free(copy), false;
  directories[count++] = (struct directory){wd, copy};
  return true;
}

// Watch the directory NAME in the one at PATH, unless its name is too long or is left out.
static void add_inner(const char *path, const char *name) {
  char inner[PATH_MAX];
  if (count == MAX_DIRECTORIES || strlen(path) + strlen(name) + 2 > sizeof inner) return;
  sprintf(inner, "%s%s", path, name);
  if (exclude && matches(exclude, inner)) return;
  strcat(inner, "/");
  add(inner);
}

static void scan(const char *path) {
  char whole[2 * PATH_MAX];
  snprintf(whole, sizeof whole, "%s/%s", root, path);
  DIR *listing = opendir(whole);
  struct dirent *entry;
  for (long i = 0; listing && i < MAX_SCANNED && (entry = readdir(listing)); i++) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) add_inner(path, entry->d_name);
  }
  if (listing) closedir(listing);
}

// Look for directories in those from index FIRST on, and then in what that found: the nearest first.
static void scan_from(size_t first) {
  for (size_t i = first; i < count && !only; i++) scan(directories[i].path);
}

static void changed(const struct inotify_event *event, const char *directory) {
  char path[PATH_MAX + NAME_MAX + 2];
  size_t before = count;
  snprintf(path, sizeof path, "%s%s", directory, event->name);
  if (only ? strcmp(only, event->name) != 0 : exclude && matches(exclude, path)) return;
  note(path);
  if (only || !(event->mask & IN_ISDIR)) return;
  if (event->mask & (IN_CREATE | IN_MOVED_TO)) {
    add_inner(directory, event->name);
    scan_from(before);
  } else if (event->mask & IN_MOVED_FROM) {
    strcat(path, "/");
    forget_below(path);
  }
}

static void take(const struct inotify_event *event) {
  if (event->mask & IN_Q_OVERFLOW) return note_many(), forget_below(""), scan_from(0);
  struct directory *directory = find(event->wd);
  if (!directory) return;
  if (directory == directories && event->mask & ENDS) is_over = true;
  else if (event->mask & IN_IGNORED) forget(directory);
  else if (event->len && event->mask & CHANGES) changed(event, directory->path);
}

static void take_all(void) {
  static char events[64 << 10] __attribute__((aligned(__alignof__(struct inotify_event))));
  ssize_t size = read(queue, events, sizeof events);
  for (ssize_t at = 0; at < size && !is_over;) {
    const struct inotify_event *event = (const void *)(events + at);
    take(event);
    at += (ssize_t)(sizeof *event + event->len);
  }
}

// A directory that is removed while a program is in it gives no event.
static bool is_gone(void) {
  struct stat about;
  return lstat(*root ? root : "/", &about) || about.st_dev != device || about.st_ino != inode;
}

static void go_on(void) {
  for (;;) {
    struct pollfd waits[] = {{.fd = queue, .events = POLLIN}, {.fd = 1}};
    if (poll(waits, LENGTH(waits), until_batch(LOOK_MS)) < 0) return;
    if (waits[1].revents) return;
    if (waits[0].revents) take_all();
    if (is_over || is_gone()) return note_many(), send_batch();
    if (until_batch(LOOK_MS) == 0) send_batch();
  }
}

// Whether the root is watched: PATH, or where it lies if it is a file. Errno says why not.
static bool open_root(const char *path) {
  struct stat about;
  if (!realpath(path, root) || stat(root, &about)) return false;
  if (!S_ISDIR(about.st_mode)) {
    char *slash = strrchr(root, '/');
    only = slash + 1;
    *slash = 0;
    if (lstat(*root ? root : "/", &about)) return false;
  }
  device = about.st_dev, inode = about.st_ino;
  queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  return queue >= 0 && add("");
}

int watch(int argc, char **argv) {
  for (int option; (option = getopt(argc, argv, "x:")) != -1;) switch (option) {
    case 'x': exclude = compile(optarg, REG_NOSUB); break;
    default: return 2;
    }
  if (optind + 1 != argc) return 2;
  if (!open_root(argv[optind])) return dprintf(2, "%s\n", strerror(errno)), 1;
  scan_from(0);
  note_many();
  send_batch();
  go_on();
  return 0;
}
