// SPDX-License-Identifier: Apache-2.0
// Counters of block devices and network interfaces since the start, for get_metrics.
#include "facts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512u // bytes, whatever the device has

// Not a partition. Where there is no sysfs nobody can tell.
static bool is_whole(char *name) {
  char path[300];
  for (char *slash = name; (slash = strchr(slash, '/'));) *slash = '!'; // as sysfs calls it
  snprintf(path, sizeof path, "/sys/block/%s", name);
  return access(path, F_OK) == 0 || access("/sys/block", F_OK) != 0;
}

static bool is_idle(const char *name, uint64_t operations) {
  return operations == 0 && (strncmp(name, "loop", 4) == 0 || strncmp(name, "ram", 3) == 0);
}

json_t *disk_counters(void) {
  FILE *file = fopen("/proc/diskstats", "re");
  json_t *disks = json_array();
  char line[512], name[256];
  uint64_t reads, read, writes, written;
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "%*u %*u %255s %" SCNu64 " %*u %" SCNu64 " %*u %" SCNu64 " %*u %" SCNu64, name,
               &reads, &read, &writes, &written) != 5)
      continue;
    if (!is_idle(name, reads + writes) && is_whole(name))
      listed(disks, json_pack("{s:o, s:o, s:o, s:o, s:o}", "name", short_text(name, MAX_NAME), "reads",
                              number(reads), "writes", number(writes), "read_bytes",
                              number(read * SECTOR), "written_bytes", number(written * SECTOR)),
             MAX_LISTED);
  }
  if (file) fclose(file);
  return disks;
}

// NAME: 16 numbers, of which the first eight are of what was received.
json_t *network_counters(void) {
  FILE *file = fopen("/proc/net/dev", "re");
  json_t *network = json_array();
  char line[512];
  uint64_t in, in_packets, in_errors, out, out_packets, out_errors;
  while (file && fgets(line, sizeof line, file)) {
    char *colon = strrchr(line, ':'), *name = line + strspn(line, " ");
    if (!colon) continue;
    *colon = 0;
    if (sscanf(colon + 1,
               "%" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %*u %*u %*u"
               " %" SCNu64 " %" SCNu64 " %" SCNu64,
               &in, &in_packets, &in_errors, &out, &out_packets, &out_errors) != 6)
      continue;
    listed(network, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "name", short_text(name, MAX_NAME),
                              "received_bytes", number(in), "sent_bytes", number(out),
                              "received_packets", number(in_packets), "sent_packets",
                              number(out_packets), "errors", number(in_errors + out_errors)),
           MAX_LISTED);
  }
  if (file) fclose(file);
  return network;
}
