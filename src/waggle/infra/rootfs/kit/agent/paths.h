// SPDX-License-Identifier: Apache-2.0
// What the files that open, read, write and list share (paths.c, real.c, files.c, list.c, exec.c).
#ifndef PATHS_H
#define PATHS_H

#include "agent.h"

#include <sys/stat.h>

#define MOST_COUNT ((json_int_t)9007199254740991) // the largest number that all JSON libraries keep

// real.c: the member of a policy that decides.
const char *policy_of(enum access access);
// real.c: openat2(2), tried again while the kernel says that something is just being moved. MODE is
// for O_CREAT. -1 with errno.
enum resolve { ANYWHERE = 0x02, BENEATH = 0x0a, IN_ROOT = 0x12 }; // none of them takes magic links
int open_resolved(int directory, const char *path, int flags, mode_t mode, enum resolve resolve);
// real.c: the path of what is open; false after `refuse`.
bool real_place(int fd, enum access access, char place[MAX_PATH]);
// real.c: open again what was opened with O_PATH; -1 with errno.
int reopen(int fd, int flags);
// real.c: whether it lies on a file system of the kernel's own, as proc; true after `refuse`, too, if
// that cannot be told.
bool is_pseudo(int fd, enum access access, const char *path);

// paths.c: whether the last file that was opened is a new one.
extern bool was_made;

// files.c: the members `size`, `mode` and `modified` of a result; false without memory. MODE is a new
// reference.
bool add_facts(json_t *result, const struct stat *about, json_t *mode);

#endif
