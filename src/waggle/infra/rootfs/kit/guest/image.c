// SPDX-License-Identifier: Apache-2.0
// From the kit's root, where the SSH server runs, to a user's place in the image.
#include "session.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Joining PID 1's mount namespace resets the root to that namespace's: the image.
void enter_image(void) {
  int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNS) != 0) fail("entering the image");
  close(fd);
}

void base_environment(void) {
  static char text[MAX_ENVIRONMENT + 1];
  clearenv();
  int fd = open(KIT_ENVIRONMENT, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  for (char *at = text; size > 0 && at < text + size; at += strlen(at) + 1) putenv(at);
  if (fd >= 0) close(fd);
}

void become(unsigned uid, unsigned gid) {
  if (setgroups(1, (gid_t[]){gid}) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
    fail("changing the user");
  if (uid == 0) setenv("HOME", "/root", 1), setenv("USER", "root", 1), setenv("LOGNAME", "root", 1);
}
