// SPDX-License-Identifier: Apache-2.0
// PID 1 of the full kernel's first root, a directory in memory: inserts the modules that the kit needs,
// in order, offers the others at the kit's /modules, and becomes the kit's init, as if the kernel had
// mounted the kit itself. When it ends, the kernel panics, and the host reads why on the console.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define KIT "/kit"
#define DISK "/dev/vda"
#define TRIES 250 // of 20 ms

static int failed(const char *what) {
  dprintf(2, "waggle: %s: %s\n", what, strerror(errno));
  return 1;
}

static void insert(const char *name) {
  char path[280];
  snprintf(path, sizeof path, "/boot/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)) failed(name);
  if (fd >= 0) close(fd);
  unlink(path); // it is in memory
}

// Their names begin with their places in the order.
static void insert_modules(void) {
  struct dirent **found;
  int count = scandir("/boot", &found, NULL, alphasort);
  for (int i = 0; i < count; i++)
    if (found[i]->d_name[0] != '.') insert(found[i]->d_name);
}

static bool disk_is_there(void) {
  for (int i = 0; i < TRIES; i++) {
    if (access(DISK, F_OK) == 0) return true;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  }
  return false;
}

// Whoever opens one of these has the kernel load its module.
static void make_nodes(void) {
  mkdir("/dev/net", 0755);
  mknod("/dev/net/tun", S_IFCHR | 0600, makedev(10, 200));
  mknod("/dev/loop-control", S_IFCHR | 0600, makedev(10, 237));
}

int main(int argc, char **argv) {
  (void)argc;
  umask(0);
  mkdir("/dev", 0755), mkdir(KIT, 0755);
  if (mount("dev", "/dev", "devtmpfs", 0, NULL)) return failed("/dev");
  int console = open("/dev/console", O_RDWR);
  for (int fd = 0; console >= 0 && fd < 3; fd++)
    if (fd != console) dup2(console, fd);
  if (console > 2) close(console);
  insert_modules();
  make_nodes();
  if (!disk_is_there()) return failed(DISK);
  if (mount(DISK, KIT, "erofs", MS_RDONLY, NULL)) return failed("the kit");
  if (mount("/modules.erofs", KIT "/modules", "erofs", MS_RDONLY | MS_NODEV | MS_NOSUID, NULL))
    failed("/modules");
  unlink("/init");
  if (mount("/dev", KIT "/dev", NULL, MS_MOVE, NULL) || chdir(KIT) ||
      mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
    return failed("the kit's root");
  argv[0] = "/init";
  execv(argv[0], argv);
  return failed("the kit's init");
}
