// SPDX-License-Identifier: Apache-2.0
// The home directory of the user that programs run as, and other places of that user's. Runs in the
// image's root, before there is anything that could be in the way.
#include "waggle.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_home(const struct account *account) {
  struct stat found;
  return account->home[0] == '/' && account->home[1] && stat(account->home, &found) == 0 &&
         S_ISDIR(found.st_mode) && found.st_uid == account->uid &&
         (found.st_mode & 0700) == 0700;
}

static void give(const char *path, const struct account *account) {
  if (chown(path, account->uid, account->gid)) complain(path);
}

// A home that is only named is made if it is one among others: /home/app, but not /nonexistent.
static void make_home(const struct account *account) {
  const char *path = account->home;
  if (strncmp(path, "/home/", 6) == 0 && path[6] && !strchr(path + 6, '/') &&
      mkdir(path, 0755) == 0)
    give(path, account);
}

// The user's own home directory if the image has it and it is the user's, else waggle's. Unless the
// image has both, the other name leads to it.
bool choose_home(struct account *account) {
  struct stat found;
  bool is_named = *account->home && strcmp(account->home, SANDBOX_HOME) != 0;
  make_home(account);
  bool has_own = is_named && is_home(account);
  if (has_own && lstat(SANDBOX_HOME, &found) && symlink(account->home, SANDBOX_HOME) == 0)
    return false;
  make_directory(SANDBOX_HOME, 0755, 0, true);
  give(SANDBOX_HOME, account);
  if (stat(SANDBOX_HOME, &found) || chmod(SANDBOX_HOME, (found.st_mode & 07777) | 0700))
    complain(SANDBOX_HOME);
  if (!has_own) strcpy(account->home, SANDBOX_HOME);
  return is_named && !has_own;
}

void make_places(const struct account *account) {
  char path[64];
  snprintf(path, sizeof path, RUNTIME_DIRECTORY, account->uid);
  if (mkdir(path, 0700) == 0) give(path, account);
  if (mkdir(USER_CONTAINERS, 0700) == 0) give(USER_CONTAINERS, account);
}
