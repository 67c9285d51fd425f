// SPDX-License-Identifier: Apache-2.0
// What the kernel leaves to user space on other machines: links and modes of devices, and settings
// that distributions raise. A kernel may lack any of it; that is no failure.
#include "waggle.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct mount_point DEVICE_MOUNTS[] = {
    {"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
    {"shm", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
};

static const char *const LINKS[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

static const char *const FOR_EVERYBODY[] = {"/dev/fuse", "/dev/net/tun"};

static const char *const SETTINGS[][2] = {
    {"fs/file-max", "1048576"},
    {"fs/aio-max-nr", "1048576"},
    {"fs/inotify/max_user_watches", "524288"},
    {"fs/inotify/max_user_instances", "8192"},
    {"kernel/pid_max", "32768"},
    {"net/ipv4/ip_unprivileged_port_start", "0"},
    {"kernel/unprivileged_bpf_disabled", "1"}, // only root's, and PID 1's (steer.c)
    {"net/ipv4/ping_group_range", "0 2147483647"},
    {"vm/max_map_count", "262144"},
};

bool devices_ready(void) {
  mkdir("/dev/pts", 0755);
  mkdir("/dev/shm", 0755);
  mkdir("/dev/mqueue", 0755);
  if (!mount_all(DEVICE_MOUNTS, LENGTH(DEVICE_MOUNTS))) return false;
  if (mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
    rmdir("/dev/mqueue");
  for (size_t i = 0; i < LENGTH(LINKS); i++)
    if (symlink(LINKS[i][0], LINKS[i][1])) complain(LINKS[i][1]);
  for (size_t i = 0; i < LENGTH(FOR_EVERYBODY); i++) chmod(FOR_EVERYBODY[i], 0666);
  int settings = open("/proc/sys", O_PATH | O_CLOEXEC);
  for (size_t i = 0; i < LENGTH(SETTINGS); i++) {
    int fd = openat(settings, SETTINGS[i][0], O_WRONLY | O_CLOEXEC);
    if (fd < 0) continue;
    if (!write_exactly(fd, SETTINGS[i][1], strlen(SETTINGS[i][1]))) complain(SETTINGS[i][0]);
    close(fd);
  }
  close(settings);
  return true;
}
