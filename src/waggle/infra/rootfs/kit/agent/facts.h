// SPDX-License-Identifier: Apache-2.0
// What the handlers share that say how the machine is: facts.c and mounts.c.
#ifndef FACTS_H
#define FACTS_H

#include "agent.h"

#define MAX_NAME 255 // characters of a name in a result
#define MAX_TEXT 512 // and of other text

// facts.c
json_t *short_text(const char *data, size_t most); // up to its NUL
json_t *number(uint64_t value);                    // at most 2^53 - 1
// Append an entry, which is given away. False, and it is dropped, when the list has MOST already.
bool listed(json_t *list, json_t *entry, size_t most);
int64_t nanoseconds_now(void);
double seconds_up(void);
// The value of NAME in lines NAME=VALUE, without the quotes of a shell; empty where it is missing.
void assigned(const char *lines, const char *name, char *to, size_t size);
bool has_capability(int capability); // in effect now

// sessions.c: the logins. False if there are more than fit.
bool list_sessions(json_t *sessions);

// counters.c: a list each, cut to MAX_LISTED.
json_t *disk_counters(void);
json_t *network_counters(void);

// mounts.c: the mounted file systems, each once, with its shortest mount point.
#define MAX_MOUNTS 256
struct mount {
  unsigned major, minor; // the kernel's number of the file system, 0:N without a block device
  bool is_writable;      // the file system, not its mount
  const char *point, *type, *source;
};
struct mounts {
  struct mount all[MAX_MOUNTS]; // in the order of mounting
  size_t count;
  bool is_cut;        // there are more than fit
  size_t used;        // bytes of
  char names[131072]; // the names above
};
// Those that are WANTED; false (and errno) if the kernel does not say.
bool read_mounts(struct mounts *mounts, bool (*wanted)(const struct mount *));
bool is_on_disk(const struct mount *mount); // of this machine: its calls end

// keeper.c: the process that holds file systems frozen.
// Freeze all; returns how many, or -1 with errno: EALREADY when that many are frozen already (COUNT),
// EBUSY when another request is at it. MUST: each of them, or none.
int start_keeper(const struct mounts *mounts, bool must, int seconds);
int frozen_count(void);
int end_keeper(void); // thaw; how many that were, or -1 if nothing was frozen here
#endif
