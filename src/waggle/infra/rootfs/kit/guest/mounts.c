// SPDX-License-Identifier: Apache-2.0
// File systems: kit (the root at first), image and scratch become one overlay, which becomes the
// root with the kit at /.waggle. The image's own files are never changed.
#include "waggle.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEW "/merged"
#define MAX_PROCESSES 1024 // of all runs together; emulated guests take seconds to end as many
#define RESERVED_PROCESSES 32

// No work of the kernel's own behind the scenes, which each copy of a machine would do again.
#define SCRATCH_OPTIONS "noinit_itable,no_prefetch_block_bitmaps"

struct mount_point {
  const char *source, *target, *type, *options;
  unsigned long flags;
};

// The kit's own. The kernel has mounted devtmpfs on /dev already.
static const struct mount_point KIT_MOUNTS[] = {
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"cgroup", "/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"run", "/run", "tmpfs", "mode=0711,size=16m", MS_NOSUID | MS_NODEV},
    {"/dev/vdb", "/image", "erofs", NULL, MS_RDONLY},
    {"/dev/vdc", "/scratch", "ext4", SCRATCH_OPTIONS, MS_NOATIME},
    {"overlay", NEW, "overlay",
     "lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work", 0},
};

// The image's, once it is the root.
static const struct mount_point IMAGE_MOUNTS[] = {
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"cgroup", "/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {KIT "/dev", "/dev", NULL, NULL, MS_BIND | MS_REC},
    {"run", "/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV},
};

static const struct mount_point DEVICE_MOUNTS[] = {
    {"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
    {"shm", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
};

// What programs expect of any image. Where something is mounted, only a real directory will do;
// elsewhere a link to one is as good.
static const struct {
  const char *path;
  mode_t mode, wanted; // of a new one; bits that an old one must have, too
  bool may_be_link;
} DIRECTORIES[] = {
    {"/proc", 0755, 0, false}, {"/sys", 0755, 0, false},     {"/dev", 0755, 0, false},
    {"/run", 0755, 0, false},  {"/tmp", 01777, 01777, true}, {"/etc", 0755, 0, true},
    {"/root", 0700, 0, true},  {"/home", 0755, 0111, true},  {SANDBOX_HOME, 0755, 0, true},
};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static bool mount_all(const struct mount_point *points, size_t count) {
  for (const struct mount_point *m = points; m < points + count; m++)
    if (mount(m->source, m->target, m->type, m->flags, m->options) != 0)
      return complain(m->target), false;
  return true;
}

// Below what the kernel lets one user have (half of its threads, few in a small guest), so that
// this limit is the one that stops a bomb, for every user, and root can still log in.
static long process_limit(void) {
  struct rlimit own = {0};
  getrlimit(RLIMIT_NPROC, &own);
  return own.rlim_cur < MAX_PROCESSES + RESERVED_PROCESSES
             ? (long)own.rlim_cur - RESERVED_PROCESSES
             : MAX_PROCESSES;
}

// A fork bomb and a memory hog stop at these; PID 1, SSH and the agent are outside. With the cpu
// controller all runs together weigh as much as one process outside, so a kill gets its turn.
static void limit_sandbox(void) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  long long total = (long long)pages * page, reserve = total / 10;
  if (reserve > 64LL << 20) reserve = 64LL << 20;
  char memory[32], processes[32];
  snprintf(memory, sizeof memory, "%lld", total - reserve);
  snprintf(processes, sizeof processes, "%ld", process_limit());
  write_text("/cgroup/cgroup.subtree_control", "+cpu +memory +pids");
  mkdir("/cgroup/run", 0755);
  write_text("/cgroup/run/cgroup.subtree_control", "+cpu +memory +pids");
  write_text("/cgroup/run/memory.max", memory);
  write_text("/cgroup/run/pids.max", processes);
}

bool mount_everything(void) {
  umask(0);
  if (!mount_all(KIT_MOUNTS, LENGTH(KIT_MOUNTS))) return false;
  mkdir("/dev/pts", 0755);
  mkdir("/dev/shm", 0755);
  if (!mount_all(DEVICE_MOUNTS, LENGTH(DEVICE_MOUNTS))) return false;
  chmod("/scratch", 0700);
  limit_sandbox();
  return true;
}

// Make a directory, in place of whatever else the image has there.
static void make_directory(const char *path, mode_t mode, mode_t wanted, bool may_be_link) {
  struct stat found;
  if ((may_be_link ? stat : lstat)(path, &found) == 0 && S_ISDIR(found.st_mode)) {
    if ((found.st_mode & wanted) != wanted && chmod(path, (found.st_mode & 07777) | wanted))
      complain(path);
    return;
  }
  if (unlink(path) == 0) dprintf(2, "waggle: %s of the image is not a directory: replaced\n", path);
  if (mkdir(path, mode)) complain(path);
}

bool image_becomes_root(void) {
  make_directory(NEW KIT, 0755, 0, false);
  // pivot_root also moves the root of every process that had the old one, this one included.
  if (chdir(NEW) || syscall(SYS_pivot_root, ".", "." KIT) || chdir("/"))
    return complain("pivot_root"), false;
  for (size_t i = 0; i < LENGTH(DIRECTORIES); i++)
    make_directory(DIRECTORIES[i].path, DIRECTORIES[i].mode, DIRECTORIES[i].wanted,
                   DIRECTORIES[i].may_be_link);
  return mount_all(IMAGE_MOUNTS, LENGTH(IMAGE_MOUNTS));
}
