// SPDX-License-Identifier: Apache-2.0
// What a child gives up before it does what a request wants: capabilities, or being root at all.
#include "agent.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Only root has any. A child of this agent starts no program, and no program of its own gets any.
bool keep_capabilities(uint64_t kept) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct held[2];
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capget, &header, held)) return false;
  for (int i = 0; i < 2; i++) {
    uint32_t word = (uint32_t)(kept >> (32 * i));
    held[i].effective = held[i].permitted = held[i].permitted & word;
    held[i].inheritable = 0;
  }
  return syscall(SYS_capset, &header, held) == 0;
}

bool find_account(const char *name, struct account *account) {
  struct passwd *found = getpwnam(name);
  if (!found) return refuse(NOT_FOUND, NULL, NULL, "There is no user %s.", name), false;
  if (strlen(found->pw_name) >= sizeof account->name || strlen(found->pw_dir) >= sizeof account->home)
    return refuse(UNSUPPORTED, NULL, NULL, "The entry of %s is too long.", name), false;
  account->uid = found->pw_uid, account->gid = found->pw_gid;
  strcpy(account->name, found->pw_name), strcpy(account->home, found->pw_dir);
  return true;
}

// Without the right to change users only oneself can be become, which is nothing to do.
bool become(const struct account *account) {
  if (geteuid() != 0 && geteuid() == account->uid) return true;
  if (initgroups(account->name, account->gid) || setresgid(account->gid, account->gid, account->gid) ||
      setresuid(account->uid, account->uid, account->uid))
    return refuse_errno(account->name), false;
  return true;
}
