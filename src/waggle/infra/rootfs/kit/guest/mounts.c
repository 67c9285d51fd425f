// SPDX-License-Identifier: Apache-2.0
// The kit's file systems: kit (the root at first), image and scratch, which become one overlay that
// root.c makes the root. The image's own files are never changed.
#include "waggle.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

// No work of the kernel's own behind the scenes, which each copy of a machine would do again.
#define SCRATCH_OPTIONS "noinit_itable,no_prefetch_block_bitmaps"
#define LAYERS "lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work"

// The kernel has mounted devtmpfs on /dev already, and console.c has mounted /proc.
static const struct mount_point KIT_MOUNTS[] = {
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"cgroup", "/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"run", "/run", "tmpfs", "mode=0711,size=32m", MS_NOSUID | MS_NODEV},
    {"/dev/vdb", "/image", "erofs", NULL, MS_RDONLY},
    {"/dev/vdc", "/scratch", "ext4", SCRATCH_OPTIONS, MS_NOATIME},
};

// Apart, so that what jobs print cannot fill what a renewal writes to.
static const struct mount_point JOBS_MOUNT[] = {
    {"jobs", "/run/jobs", "tmpfs", "mode=0700,size=64m", MS_NOSUID | MS_NODEV | MS_NOEXEC},
};

bool mount_all(const struct mount_point *points, size_t count) {
  for (const struct mount_point *m = points; m < points + count; m++)
    if (mount(m->source, m->target, m->type, m->flags, m->options) != 0)
      return complain(m->target), false;
  return true;
}

// As one file system: directories of the image can be renamed, and its hard links stay links when
// they are written to. A kernel may lack that. Not with `xino`: its inode numbers have the highest
// bits set, and programs that keep them as floating point numbers, as Node does, take files for one.
static bool mount_overlay(void) {
  static const char *const options[] = {LAYERS ",redirect_dir=on,index=on", LAYERS};
  for (size_t i = 0; i < LENGTH(options); i++)
    if (mount("overlay", KIT_MERGED, "overlay", 0, options[i]) == 0) return true;
  return complain(KIT_MERGED), false;
}

bool mount_everything(void) {
  umask(0);
  if (!mount_all(KIT_MOUNTS, LENGTH(KIT_MOUNTS))) return false;
  // As distributions have it: nobody makes a second name of another's file, or a trap in /tmp.
  write_text("/proc/sys/fs/protected_hardlinks", "1");
  write_text("/proc/sys/fs/protected_symlinks", "1");
  mkdir("/run/jobs", 0700);
  if (!mount_all(JOBS_MOUNT, LENGTH(JOBS_MOUNT))) return false;
  if (mkdir("/scratch/jobs", 0700)) forget_last_life();
  if (!mount_overlay()) return false;
  chmod("/scratch", 0700);
  limit_sandbox();
  return true;
}
