// SPDX-License-Identifier: Apache-2.0
// From the kit's root, where the SSH server runs, to a user's place in the image.
#include "session.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_FILES 65536
#define MAX_OPEN_FILES 1048576

// Joining PID 1's mount namespace resets the root to that namespace's: the image.
void enter_image(void) {
  int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNS) != 0) fail("entering the image");
  close(fd);
}

const struct account ROOT = {.group_count = 1, .name = "root", .home = "/root"};

static void name_user(const struct account *account) {
  setenv("HOME", account->home, 1);
  setenv("USER", account->name, 1);
  setenv("LOGNAME", account->name, 1);
}

// Where programs keep sockets, and engines the layers of containers, which cannot lie upon ours.
static void name_places(const struct account *account) {
  char path[64];
  snprintf(path, sizeof path, RUNTIME_DIRECTORY, account->uid);
  setenv("XDG_RUNTIME_DIR", path, 0);
  if (access("/etc/containers/storage.conf", F_OK))
    setenv("CONTAINERS_STORAGE_CONF", KIT "/etc/storage.conf", 0);
}

// What the user installs for itself is found first, also where its home is not waggle's.
static void search_home(const char *home) {
  const char *path = getenv("PATH");
  static char wider[MAX_ENVIRONMENT + MAX_PATH + 16];
  if (!path || strcmp(home, SANDBOX_HOME) == 0) return;
  snprintf(wider, sizeof wider, "%s/.local/bin:%s", home, path);
  setenv("PATH", wider, 1);
}

// What is not for the proxy by this machine's name: a copy has another name than its model.
static void name_itself(const char *variable) {
  const char *given = getenv(variable);
  static char wider[MAX_ENVIRONMENT + 80];
  char host[65] = "";
  if (!given || gethostname(host, sizeof host - 1) || !*host) return;
  snprintf(wider, sizeof wider, "%s,%s", given, host);
  setenv(variable, wider, 1);
}

const struct account *base_environment(void) {
  static char text[MAX_ENVIRONMENT + 1];
  static struct account account;
  clearenv();
  int fd = open(KIT_ENVIRONMENT, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  for (char *at = text; size > 0 && at < text + size; at += strlen(at) + 1) putenv(at);
  if (fd >= 0) close(fd);
  fd = open(KIT_ACCOUNT, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || !read_exactly(fd, &account, sizeof account)) fail("account");
  close(fd);
  name_user(&account);
  name_itself("no_proxy");
  name_itself("NO_PROXY");
  name_places(&account);
  search_home(account.home);
  return &account;
}

// The kit's own processes are spared when memory runs out; from here on it is the user's.
static void lose_protection(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd >= 0 && !write_exactly(fd, "0", 1)) complain("oom_score_adj");
  if (fd >= 0) close(fd);
}

// The SSH server made the streams as root. As the user's own they can be opened again by their names
// (/dev/stdout), also by those whom a program of the user's becomes.
static void own_streams(const struct account *account) {
  struct stat about;
  for (int fd = 0; fd < 3; fd++) {
    if (fstat(fd, &about)) continue;
    if (S_ISFIFO(about.st_mode) && (fchown(fd, account->uid, account->gid) || fchmod(fd, 0666)))
      complain("standard streams");
    if (isatty(fd) && fchown(fd, account->uid, (gid_t)-1)) complain("terminal");
  }
}

static void widen_limits(void) {
  const struct rlimit files = {.rlim_cur = OPEN_FILES, .rlim_max = MAX_OPEN_FILES};
  if (setrlimit(RLIMIT_NOFILE, &files)) complain("limit of open files");
}

void name_root(const struct account *account) {
  if (account->uid != 0) return;
  name_user(account);
  unsetenv("XDG_RUNTIME_DIR");
}

void become(const struct account *account) {
  lose_protection();
  own_streams(account);
  widen_limits();
  if (!assume(account)) fail("changing the user");
  name_root(account);
}

void show_notice(void) {
  char text[2 * MAX_PATH];
  int fd = open(KIT_NOTICE, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t size = unlink(KIT_NOTICE) ? 0 : read(fd, text, sizeof text);
  if (size > 0) write_exactly(2, text, (size_t)size);
  close(fd);
}
