// SPDX-License-Identifier: Apache-2.0
// Files of /etc that are the machine's: its name, its name servers, settings that nobody made.
// What the image or the user has in them stays. Runs in the image's root.
#include "waggle.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOSTS "/etc/hosts"
#define SERVERS_FILE "/etc/resolv.conf"
#define MAX_HOSTS (256u << 10)
#define MAX_NAME 64

// Making another file costs a machine that has just begun to run tenfold.
void overwrite(const char *path, mode_t mode, const char *data, size_t size) {
  struct stat about;
  int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  bool is_plain = fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode) &&
                  about.st_nlink == 1 && (about.st_mode & 07777) == mode && about.st_uid == 0;
  bool done = is_plain && write_exactly(fd, data, size) &&
              (about.st_size <= (off_t)size || ftruncate(fd, (off_t)size) == 0);
  if (fd >= 0) close(fd);
  if (done) return;
  unlink(path);
  write_file(path, O_TRUNC, mode, data, size);
}

// A line that says of this machine's addresses only what ours say.
static bool is_ours(const char *line, size_t length, const char *name) {
  char copy[256], *rest = copy, *word = NULL;
  if (length >= sizeof copy) return false;
  memcpy(copy, line, length);
  copy[length] = 0;
  int words = 0;
  while ((word = strtok_r(rest, " \t\r", &rest))) {
    bool is_known = words++ == 0 ? !strcmp(word, "127.0.0.1") || !strcmp(word, "::1")
                                 : !strcmp(word, "localhost") || !strcmp(word, name) ||
                                       !strcmp(word, "ip6-localhost") ||
                                       !strcmp(word, "ip6-loopback");
    if (!is_known) return false;
  }
  return words > 0;
}

// The file with our lines first; those that it had for the name before are dropped.
static void write_hosts(const char *name, const char *before) {
  static char old[MAX_HOSTS + 1], text[MAX_HOSTS + 512];
  struct stat about;
  int fd = open(HOSTS, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  bool is_plain = fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
  ssize_t got = is_plain ? read(fd, old, MAX_HOSTS) : 0;
  if (fd >= 0) close(fd);
  old[got > 0 ? got : 0] = 0;
  size_t size = (size_t)snprintf(
      text, sizeof text, "127.0.0.1 localhost %s\n::1 localhost ip6-localhost ip6-loopback\n", name);
  for (const char *line = old; *line;) {
    size_t length = strcspn(line, "\n");
    if (!is_ours(line, length, before)) {
      memcpy(text + size, line, length);
      text[size + length] = '\n';
      size += length + 1;
    }
    line += length + (line[length] == '\n');
  }
  overwrite(HOSTS, 0644, text, size);
}

void set_hostname(const char *wanted, size_t size) {
  char name[MAX_NAME + 1], before[MAX_NAME + 1] = "";
  snprintf(name, sizeof name, "%.*s", (int)size, wanted);
  gethostname(before, sizeof before - 1);
  sethostname(name, strlen(name));
  write_hosts(name, before);
}

// Only where nothing is: a git that has no name refuses to commit, and one that finds files of
// root's refuses to look at them.
static void offer_git(const struct account *account) {
  char text[512];
  struct stat found;
  if (lstat("/etc/gitconfig", &found) == 0) return;
  snprintf(text, sizeof text,
           "[user]\n\tname = %s\n\temail = %s@localhost\n[safe]\n\tdirectory = *\n"
           "[advice]\n\tdefaultBranchName = false\n",
           account->name, account->name);
  write_text("/etc/gitconfig", text);
}

// Docker's server asks for extensions of iptables, which a kernel without modules has not, unless it
// is set not to.
static void offer_docker(void) {
  if (has_modules()) return;
  mkdir("/etc/docker", 0755);
  if (access("/etc/docker/daemon.json", F_OK) != 0)
    write_text("/etc/docker/daemon.json", "{\"iptables\": false, \"ip6tables\": false}\n");
}

// Without a network nothing answers, so a lookup fails at once instead of hanging. With one `reach`
// does, and is patient with far servers; its address leaves port 53 of 127.0.0.1 to programs.
static const char *const SERVERS[] = {"nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
                                      "nameserver 198.18.0.2\noptions timeout:5 attempts:2 no-aaaa\n"};

static const char *servers(void) {
  struct stat about;
  return SERVERS[stat(KIT_NETWORK, &about) == 0 && about.st_size > 0];
}

void offer_names(void) {
  char text[128] = "";
  const char *wanted = servers();
  int fd = open(SERVERS_FILE, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[size > 0 ? size : 0] = 0;
  if (!strcmp(text, SERVERS[wanted == SERVERS[0]]))
    overwrite(SERVERS_FILE, 0644, wanted, strlen(wanted));
}

void offer_settings(const struct account *account) {
  overwrite(SERVERS_FILE, 0644, servers(), strlen(servers()));
  offer_git(account);
  offer_docker();
}
