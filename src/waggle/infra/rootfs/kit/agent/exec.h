// SPDX-License-Identifier: Apache-2.0
// What the files that run one program share: exec.c (its life and the requests for it), start.c (its
// beginning), tree.c (its end).
#ifndef EXEC_H
#define EXEC_H

#include "agent.h"

// start.c: a program before it runs. All of it is made before the fork, but for what only the new
// process can do.
struct start {
  char *argv[129], *environment[65];
  const char *directory;
  struct account account;
  int input, output[2]; // of the program: 0, and the writing ends of 1 and 2
};
// Fill in what the parameters say; false after `refuse`.
bool prepare_program(const json_t *params, struct start *start);
// What the process of a program waits for: requests, ends of processes, whether the program runs (a
// pipe that tells a `failure`, or ends), and what it writes.
enum { SOCKET, ENDS, REPORT, OUTPUT, ERROR, POLLED };
// Start it, and open all of these but SOCKET. False with errno.
bool begin_program(struct start *start, int fds[POLLED], pid_t *pid);
struct failure {
  int error;
  bool is_directory; // could not be entered; else the program could not be run
};

// tree.c: be the one that orphans of the program fall to, so that all can be found.
bool adopt_orphans(void);
// Reap what has ended; true once PROGRAM has, with its STATUS for waitpid(2).
bool reap(pid_t program, int *status);
// Kill the program and all that comes from it, and reap them: false if some are left after seconds.
bool kill_tree(pid_t program, int *status);

#endif
