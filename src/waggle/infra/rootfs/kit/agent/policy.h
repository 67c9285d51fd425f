// SPDX-License-Identifier: Apache-2.0
// The policies as they were read (policy_file.c), for policy.c to decide by. Everything lives for good.
#ifndef POLICY_H
#define POLICY_H

#include "agent.h"

#define MAX_POLICIES 4
#define MAX_REQUESTS 32
#define MAX_PROCESSES 32
#define MAX_SECONDS 86400

struct policy {
  const char *file;
  uint64_t methods;                 // 1 << the place in METHODS
  const json_t *allow[2], *deny[2]; // by `enum access`: lists of directories
  const json_t *programs;           // a list of rules, or NULL: none
  const json_t *users;              // a list of names
};
extern struct policy policies[MAX_POLICIES];
extern int policy_count;

#endif
