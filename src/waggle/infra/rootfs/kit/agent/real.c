// SPDX-License-Identifier: Apache-2.0
// Where a descriptor really leads, and on what kind of file system. All is asked of the descriptor,
// never of a name, which may mean something else a moment later.
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define TRIES 100 // of openat2, which says EAGAIN while directories are moved about
#define PROC_MAGIC 0x9fa0

// The kernel's `struct open_how`; not every C library brings its header.
struct way {
  uint64_t flags, mode, resolve;
};

// File systems without files of their own, by their magic numbers: what is read there is made by the
// kernel at that moment, and what is written there changes the machine.
static const uint32_t PSEUDO[] = {
    PROC_MAGIC, 0x62656572, 0x0027e0eb, 0x63677270, // proc, sysfs, cgroup, cgroup2
    0x64626720, 0x74726163, 0x73636673, 0xcafe4a11, // debugfs, tracefs, securityfs, bpf
    0x62656570, 0x00001cd1, 0x6165676c, 0xde5e81e4, // configfs, devpts, pstore, efivarfs
    0xf97cff8c, 0x43415d53, 0x5a3c69f0, 0x42494e4d, // selinux, smack, apparmor, binfmt_misc
    0x19800202, 0x6e736673, 0x65735543, 0x07655821, // mqueue, namespaces, fusectl, resctrl
    0x50495045, 0x534f434b, 0x09041934, 0x00000187, // pipes, sockets, anonymous inodes, autofs
    0xabba1974, 0x00009fa2, 0x67596969, 0x6e667364, // xenfs, usbfs, rpc_pipefs, nfsd
    0x6c6f6f70, 0x64646178, 0x454d444d, 0x5345434d, // binder, dax, devmem, secretmem
    0x444d4142, 0x50494446, 0x474d454d,             // dma-buf, pidfds, memory of guests
};

const char *policy_of(enum access access) { return access == READ ? "read.allow" : "write.allow"; }

int open_resolved(int directory, const char *path, int flags, mode_t mode, enum resolve resolve) {
  struct way way = {(uint64_t)(flags | O_CLOEXEC), mode, resolve};
  for (int i = 0; i < TRIES; i++) {
    int fd = (int)syscall(SYS_openat2, directory, path, &way, sizeof way);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return fd;
  }
  return -1;
}

// The kernel's list of our descriptors; nothing else that may lie in its place.
static int open_list(void) {
  struct statfs about;
  int list = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (list >= 0 && fstatfs(list, &about) == 0 && (uint32_t)about.f_type == PROC_MAGIC) return list;
  if (list >= 0) close(list);
  return errno = ENOSYS, -1;
}

bool real_place(int fd, enum access access, char place[MAX_PATH]) {
  char name[16];
  int list = open_list();
  if (list < 0) return refuse(UNSUPPORTED, NULL, NULL, "/proc is not mounted"), false;
  snprintf(name, sizeof name, "%d", fd);
  ssize_t size = readlinkat(list, name, place, MAX_PATH);
  close(list);
  if (size >= MAX_PATH) return refuse(TOO_LARGE, NULL, NULL, "its real path is too long"), false;
  if (size < 0) return refuse_errno("its real path"), false;
  place[size] = 0;
  // What lies outside of this process's root is told without its place.
  if (place[0] == '/') return true;
  return refuse(DENIED, "policy", policy_of(access), "it has no place below /"), false;
}

int reopen(int fd, int flags) {
  char name[16];
  int list = open_list();
  if (list < 0) return -1;
  snprintf(name, sizeof name, "%d", fd);
  int again = openat(list, name, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  int error = errno;
  close(list);
  return errno = error, again;
}

bool is_pseudo(int fd, enum access access, const char *path) {
  struct statfs about;
  if (fstatfs(fd, &about)) return refuse_errno(path), true;
  for (size_t i = 0; i < LENGTH(PSEUDO); i++)
    if ((uint32_t)about.f_type == PSEUDO[i])
      return refuse(DENIED, "policy", policy_of(access),
                    "%s: it is on a file system of the kernel's own", path), true;
  return false;
}
