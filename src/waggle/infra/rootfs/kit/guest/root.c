// SPDX-License-Identifier: Apache-2.0
// The image becomes the root, with the kit at /.waggle, and gains what programs expect of any.
#include "waggle.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct mount_point IMAGE_MOUNTS[] = {
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"cgroup", "/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {KIT "/dev", "/dev", NULL, NULL, MS_BIND | MS_REC},
    {KIT "/run/code", CODE, NULL, NULL, MS_BIND},
    {KIT "/run/bytecode", KIT "/runners/__pycache__", NULL, NULL, MS_BIND}, // for root to write
};

// What programs expect of any image. Where something is mounted, only a real directory will do;
// elsewhere a link to one is as good.
static const struct {
  const char *path;
  mode_t mode, wanted; // of a new one; bits that an old one must have, too
  bool may_be_link;
} DIRECTORIES[] = {
    {"/proc", 0755, 0, false},        {"/sys", 0755, 0, false},
    {"/dev", 0755, 0, false},         {"/run", 0755, 0111, true},
    {"/tmp", 01777, 01777, true},     {"/etc", 0755, 0, true},
    {"/root", 0700, 0, true},         {"/home", 0755, 0111, true},
    {"/var", 0755, 0, true},          {"/var/tmp", 01777, 01777, true},
    {"/var/lib", 0755, 0, true},      {"/run/lock", 01777, 0, true},
    {"/run/user", 0755, 0111, true},  {CODE, 0711, 0, false},
};

static const char *const LINKS[][2] = {{"/run", "/var/run"}, {"/run/lock", "/var/lock"}};

// Where container engines keep layers: an overlay cannot lie upon our own.
static const char *const STORES[] = {"containers", "docker", "containerd"};

// Make a directory, in place of whatever else the image has there.
void make_directory(const char *path, mode_t mode, mode_t wanted, bool may_be_link) {
  struct stat found;
  if ((may_be_link ? stat : lstat)(path, &found) == 0 && S_ISDIR(found.st_mode)) {
    if ((found.st_mode & wanted) != wanted && chmod(path, (found.st_mode & 07777) | wanted))
      complain(path);
    return;
  }
  if (unlink(path) == 0) dprintf(2, "waggle: %s of the image is not a directory: replaced\n", path);
  if (mkdir(path, mode)) complain(path);
}

static bool is_empty(const char *path) {
  DIR *directory = opendir(path);
  int entries = 0;
  while (directory && entries < 3 && readdir(directory)) entries++;
  if (directory) closedir(directory);
  return directory && entries == 2;
}

// On the scratch file system itself, unless the image brings something there.
static void offer_stores(void) {
  for (size_t i = 0; i < LENGTH(STORES); i++) {
    char source[64], target[64];
    snprintf(source, sizeof source, KIT "/scratch/%s", STORES[i]);
    snprintf(target, sizeof target, "/var/lib/%s", STORES[i]);
    make_directory(target, 0711, 0, true);
    bool is_there = mkdir(source, 0711) == 0 || errno == EEXIST; // in an earlier life of the machine
    if (!is_there || !is_empty(target) || mount(source, target, NULL, MS_BIND, NULL))
      dprintf(2, "waggle: %s stays the image's\n", target);
  }
}

bool image_becomes_root(void) {
  make_directory(KIT_MERGED KIT, 0755, 0, false);
  mkdir("/run/code", 0711), mkdir("/run/bytecode", 0755);
  // pivot_root also moves the root of every process that had the old one, this one included.
  if (chdir(KIT_MERGED) || syscall(SYS_pivot_root, ".", "." KIT) || chdir("/"))
    return complain("pivot_root"), false;
  for (size_t i = 0; i < LENGTH(DIRECTORIES); i++)
    make_directory(DIRECTORIES[i].path, DIRECTORIES[i].mode, DIRECTORIES[i].wanted,
                   DIRECTORIES[i].may_be_link);
  for (size_t i = 0; i < LENGTH(LINKS); i++)
    if (symlink(LINKS[i][0], LINKS[i][1]) && errno != EEXIST) complain(LINKS[i][1]);
  if (!mount_all(IMAGE_MOUNTS, LENGTH(IMAGE_MOUNTS))) return false;
  offer_stores();
  offer_modules();
  return mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) == 0; // as elsewhere; engines rely on it
}
