// SPDX-License-Identifier: Apache-2.0
// What all runs together may use of the machine, and what they see of that.
#include "waggle.h"

#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PROCESSES 1024 // of all runs together; emulated guests take seconds to end as many
#define RESERVED_PROCESSES 32

// Below what the kernel lets one user have (half of its threads, few in a small guest), so that
// this limit is the one that stops a bomb, for every user, and root can still log in.
static long process_limit(void) {
  struct rlimit own = {0};
  getrlimit(RLIMIT_NPROC, &own);
  return own.rlim_cur < MAX_PROCESSES + RESERVED_PROCESSES
             ? (long)own.rlim_cur - RESERVED_PROCESSES
             : MAX_PROCESSES;
}

// In a name space of its own the part of the runs is the whole hierarchy for programs: container
// engines work there, within the limits. Whoever makes one has to be in that part.
static void see_only_runs(void) {
  if (!write_text("/cgroup/run/cgroup.procs", "0")) return;
  if (unshare(CLONE_NEWCGROUP)) complain("cgroup name space");
  write_text("/cgroup/cgroup.procs", "0");
}

// A fork bomb and a memory hog stop at these; PID 1, SSH and the agent are outside. With the cpu
// controller all runs together weigh as much as one process outside, so a kill gets its turn.
void limit_sandbox(void) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  long long total = (long long)pages * page, reserve = total / 10;
  if (reserve > 64LL << 20) reserve = 64LL << 20;
  char memory[32], processes[32];
  snprintf(memory, sizeof memory, "%lld", total - reserve);
  snprintf(processes, sizeof processes, "%ld", process_limit());
  write_text("/cgroup/cgroup.subtree_control", "+cpu +memory +pids");
  mkdir("/cgroup/run", 0755);
  see_only_runs();
  write_text("/cgroup/run/cgroup.subtree_control", "+cpu +memory +pids");
  write_text("/cgroup/run/memory.max", memory);
  write_text("/cgroup/run/pids.max", processes);
}
