// SPDX-License-Identifier: Apache-2.0
// The modules of a kernel that has any, which its first root has put at the kit's /modules: programs
// find them where they do on other machines, and the kernel loads what it needs with the kit's program.
#include "waggle.h"

#include <stdio.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MODULES KIT "/modules"

bool has_modules(void) { return access(MODULES "/modules.dep", R_OK) == 0; }

void offer_modules(void) {
  struct utsname kernel;
  char path[32 + sizeof kernel.release];
  if (!has_modules() || uname(&kernel)) return;
  make_directory("/lib", 0755, 0, true);
  make_directory("/lib/modules", 0755, 0, true);
  snprintf(path, sizeof path, "/lib/modules/%s", kernel.release);
  make_directory(path, 0755, 0, false);
  if (mount(MODULES, path, NULL, MS_BIND, NULL)) complain(path);
  write_text("/proc/sys/kernel/modprobe", KIT "/bin/modprobe");
}
