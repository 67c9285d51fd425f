// SPDX-License-Identifier: Apache-2.0
// get_metrics: how busy the machine is, from proc(5). What a kernel does not count is 0.
#include "facts.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024u

struct activity {
  uint64_t user, nice, system, idle, iowait, irq, softirq, steal; // in ticks of the clock
  uint64_t running, blocked;                                      // processes
};

// Line by line: those of interrupts are long.
static bool read_activity(struct activity *activity) {
  FILE *file = fopen("/proc/stat", "re");
  char line[512];
  memset(activity, 0, sizeof *activity);
  if (!file) return false;
  while (fgets(line, sizeof line, file)) {
    sscanf(line, "procs_running %" SCNu64, &activity->running);
    sscanf(line, "procs_blocked %" SCNu64, &activity->blocked);
    if (strncmp(line, "cpu ", 4)) continue;
    char *at = line + 4;
    uint64_t *const ticks[] = {&activity->user, &activity->nice, &activity->system, &activity->idle,
                               &activity->iowait, &activity->irq, &activity->softirq, &activity->steal};
    for (size_t i = 0; i < LENGTH(ticks); i++) *ticks[i] = strtoull(at, &at, 10);
  }
  fclose(file);
  return true;
}

static double seconds(uint64_t ticks) { return (double)ticks / (double)sysconf(_SC_CLK_TCK); }

static json_t *cpu(const struct activity *activity) {
  return json_pack("{s:f, s:f, s:f, s:f, s:f}", "user", seconds(activity->user + activity->nice),
                   "system", seconds(activity->system + activity->irq + activity->softirq), "idle",
                   seconds(activity->idle), "iowait", seconds(activity->iowait), "steal",
                   seconds(activity->steal));
}

static json_t *load(void) {
  double loads[3] = {0};
  if (getloadavg(loads, 3) < 3) memset(loads, 0, sizeof loads);
  return json_pack("[f, f, f]", loads[0], loads[1], loads[2]);
}

// The bytes of a line of /proc/meminfo, which is in KiB; -1 where it is missing.
static int64_t bytes_of(const char *lines, const char *name) {
  size_t length = strlen(name);
  for (const char *line = lines; line; line = strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (strncmp(line, name, length) == 0 && line[length] == ':')
      return (int64_t)strtoull(line + length + 1, NULL, 10) * KIB;
  }
  return -1;
}

static json_t *amount(int64_t bytes) { return number(bytes < 0 ? 0 : (uint64_t)bytes); }

static json_t *memory(void) {
  char lines[8192];
  if (!read_text("/proc/meminfo", lines, sizeof lines)) *lines = 0;
  int64_t free = bytes_of(lines, "MemFree"), available = bytes_of(lines, "MemAvailable");
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "total_bytes", amount(bytes_of(lines, "MemTotal")),
                   "available_bytes", amount(available < 0 ? free : available), "free_bytes",
                   amount(free), "cached_bytes", amount(bytes_of(lines, "Cached")), "swap_total_bytes",
                   amount(bytes_of(lines, "SwapTotal")), "swap_free_bytes",
                   amount(bytes_of(lines, "SwapFree")));
}

// `some avg10=0.12 ...`, or 0 where the kernel has no such line.
static double stalled(const char *lines, const char *which) {
  double percent = 0;
  const char *line = strstr(lines, which);
  if (line) sscanf(line + strlen(which), " avg10=%lf", &percent);
  return percent;
}

static json_t *stall(const char *path) {
  char lines[512];
  if (!read_text(path, lines, sizeof lines) || !*lines) return json_null();
  return json_pack("{s:f, s:f}", "some", stalled(lines, "some"), "full", stalled(lines, "full"));
}

static json_t *pressure(void) {
  return json_pack("{s:o, s:o, s:o}", "cpu", stall("/proc/pressure/cpu"), "memory",
                   stall("/proc/pressure/memory"), "io", stall("/proc/pressure/io"));
}

static uint64_t process_count(void) {
  DIR *directory = opendir("/proc");
  uint64_t count = 0;
  for (struct dirent *entry; directory && (entry = readdir(directory));)
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') count++;
  if (directory) closedir(directory);
  return count;
}

json_t *get_metrics(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  struct activity activity;
  if (!read_activity(&activity)) return refuse_errno("/proc/stat");
  return json_pack("{s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o}}", "uptime", seconds_up(),
                   "cpu", cpu(&activity), "load", load(), "memory", memory(), "pressure", pressure(),
                   "disks", disk_counters(), "network", network_counters(), "processes", "total",
                   number(process_count()), "running", number(activity.running), "blocked",
                   number(activity.blocked));
}
