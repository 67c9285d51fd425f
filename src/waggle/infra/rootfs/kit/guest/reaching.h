// SPDX-License-Identifier: Apache-2.0
// Between PID 1 and `reach`, the process that gives programs a network.
#ifndef REACHING_H
#define REACHING_H

#include <stdbool.h>
#include <sys/types.h>

#define REACH_SOCKET 3 // the descriptor; a byte that is sent comes back once the record is obeyed
#define CANNOT 3       // the exit status when this kernel lacks something: not to be started again

// reaching.c: start it unless it runs; seconds after which to try again, or -1.
long keep_reaching(void);
void reach_ended(pid_t pid, int status);
// The host has sent a record: wait, for some seconds at most, until it is obeyed.
void reach_anew(void);

#endif
