// SPDX-License-Identifier: Apache-2.0
// Who programs run as, where they start and which shell greets people: decided once, at boot, from
// what the image's configuration asks for (records of the identity disk) and what the image holds.
// Runs in the image's root. Nothing here stops a boot; what cannot be done is said.
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASSWD "/etc/passwd"
#define GROUP "/etc/group"
#define MAX_USERS (1u << 20) // bytes of a file of users

static struct account account;
static char passwd[MAX_USERS + 1], group[MAX_USERS + 1];

// Say it to the operator, on the console, and the user, with what runs first.
__attribute__((format(printf, 1, 2))) static void notice(const char *format, ...) {
  char text[MAX_PATH + 512];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  dprintf(2, "%s", text);
  write_file(KIT_NOTICE, O_APPEND, 0600, text, strlen(text));
}

static void read_record(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
  text[got > 0 ? got : 0] = 0;
  if (fd >= 0) close(fd);
}

// Read a file of users, and say whether users can be added to it. Whatever else lies in its place,
// a pipe or a link that leads nowhere, makes way.
static bool read_users(const char *path, char text[MAX_USERS + 1]) {
  struct stat found;
  if (stat(path, &found) != 0 || !S_ISREG(found.st_mode)) return unlink(path), true;
  if (found.st_size > MAX_USERS)
    return dprintf(2, "waggle: %s is too large; its users are not known\n", path), false;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || !read_exactly(fd, text, (size_t)found.st_size)) complain(path);
  text[found.st_size] = 0;
  if (fd >= 0) close(fd);
  return true;
}

// As the image wants it; else its own `sandbox`, or whoever has the id that this one would have.
static void choose_user(void) {
  char wanted[MAX_USER + 1], number[16];
  struct account found;
  read_record(KIT_IDENTITY "/user", wanted, sizeof wanted);
  snprintf(number, sizeof number, "%u", SANDBOX_ID);
  if (*wanted && !find_account(&found, wanted, passwd, group))
    notice("waggle: the image has no user '%s'; programs run as sandbox\n", wanted);
  else if (*wanted && found.uid != 0) {
    account = found;
    return;
  }
  if (find_account(&found, "sandbox", passwd, group) && found.uid != 0)
    account = found;
  else if (has_id(passwd, SANDBOX_ID) && find_account(&found, number, passwd, group))
    account = found;
  else
    account = (struct account){.uid = SANDBOX_ID, .gid = SANDBOX_ID, .name = "sandbox",
                               .group_count = 1, .groups = {SANDBOX_ID}};
}

// The image keeps its own users; it gains only those that waggle needs and that it lacks.
static void add_lines(const char *path, const char *text, const char *root, const char *own) {
  char lines[512];
  size_t length = strlen(text);
  snprintf(lines, sizeof lines, "%s%s%s", length && text[length - 1] != '\n' ? "\n" : "",
           has_name(text, "root") ? "" : root, own);
  if (lines[0] && strcmp(lines, "\n")) write_file(path, O_APPEND, 0644, lines, strlen(lines));
}

// Nobody has two names. A password of `*` is none, and nothing looks for it in the shadows.
static void add_users(bool to_passwd, bool to_group) {
  char user[256] = "", its_group[128] = "", root[64];
  const char *shell = access("/bin/bash", X_OK) ? "/bin/sh" : "/bin/bash";
  if (!has_id(passwd, account.uid)) {
    if (has_name(passwd, "sandbox"))
      snprintf(account.name, sizeof account.name, "user%u", account.uid);
    snprintf(user, sizeof user, "%s:*:%u:%u:waggle:" SANDBOX_HOME ":%s\n", account.name,
             account.uid, account.gid, shell);
  }
  if (!has_id(group, account.gid) && !has_name(group, account.name))
    snprintf(its_group, sizeof its_group, "%s:x:%u:\n", account.name, account.gid);
  snprintf(root, sizeof root, "root:x:0:0:root:/root:%s\n", shell);
  if (to_passwd) add_lines(PASSWD, passwd, root, user);
  if (to_group) add_lines(GROUP, group, "root:x:0:\n", its_group);
}

// One home, too: the file of users says where it is.
static void move_home(void) {
  static char changed[MAX_USERS + MAX_PATH];
  if (read_users(PASSWD, passwd) &&
      with_home(passwd, account.uid, account.home, changed, sizeof changed))
    write_file(PASSWD, O_TRUNC, 0644, changed, strlen(changed));
}

// Make what is missing of the path; the last directory belongs to the user if it was missing.
static void make_directories(char *path) {
  for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
    *slash = 0;
    mkdir(path, 0755);
    *slash = '/';
  }
  if (mkdir(path, 0755) == 0 && chown(path, account.uid, account.gid)) complain(path);
}

// 0, or why the user cannot be there.
static int entering(const char *path) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) _exit(!assume(&account) ? EPERM : chdir(path) ? errno : 0);
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return EAGAIN;
  return WEXITSTATUS(status);
}

static void choose_directory(void) {
  read_record(KIT_IDENTITY "/directory", account.directory, sizeof account.directory);
  if (*account.directory == '/') {
    make_directories(account.directory);
    int error = entering(account.directory);
    if (error == 0) return;
    notice("waggle: the image's directory %s cannot be entered (%s); programs start in "
           SANDBOX_HOME "\n", account.directory, strerror(error));
  }
  strcpy(account.directory, SANDBOX_HOME);
}

// `import` looks in node_modules of the directories above a file, and nowhere else.
static void link_modules(void) {
  if (access("/usr/local/bin/node", X_OK) && access("/usr/bin/node", X_OK)) return;
  if (symlink(SANDBOX_HOME "/node_modules", "/node_modules") && errno != EEXIST)
    complain("/node_modules");
}

bool install_account(void) {
  bool to_passwd = read_users(PASSWD, passwd), to_group = read_users(GROUP, group);
  choose_user();
  add_users(to_passwd, to_group);
  if (choose_home(&account)) move_home();
  choose_directory();
  make_places(&account);
  link_modules();
  offer_settings(&account);
  read_record(KIT_IDENTITY "/shell", account.shell, sizeof account.shell);
  return write_file(KIT_ACCOUNT, O_TRUNC, 0600, &account, sizeof account);
}
