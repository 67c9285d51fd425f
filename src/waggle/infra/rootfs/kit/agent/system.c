// SPDX-License-Identifier: Apache-2.0
// ping, and get_system_info: which system this is, and how large.
#include "facts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

json_t *ping(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  return json_object();
}

static json_t *os_text(const char *lines, const char *name, const char *otherwise) {
  char value[MAX_TEXT + 1];
  assigned(lines, name, value, sizeof value);
  if (!*value && otherwise) assigned(lines, otherwise, value, sizeof value);
  return short_text(value, MAX_TEXT);
}

static json_t *os_release(void) {
  char lines[8192];
  if (!read_text("/etc/os-release", lines, sizeof lines) &&
      !read_text("/usr/lib/os-release", lines, sizeof lines))
    *lines = 0;
  return json_pack("{s:o, s:o, s:o, s:o}", "id", os_text(lines, "ID", NULL), "name",
                   os_text(lines, "NAME", NULL), "version", os_text(lines, "VERSION", "VERSION_ID"),
                   "pretty_name", os_text(lines, "PRETTY_NAME", NULL));
}

// The processors that are on: of the machine, not those that this process may use. As "0-3,7".
static uint64_t processors(void) {
  char ranges[4096], *at = ranges;
  uint64_t count = 0;
  if (read_text("/sys/devices/system/cpu/online", ranges, sizeof ranges))
    while (*at >= '0' && *at <= '9') {
      long first = strtol(at, &at, 10), last = *at == '-' ? strtol(at + 1, &at, 10) : first;
      if (last >= first) count += (uint64_t)(last - first) + 1;
      if (*at == ',') at++;
    }
  long otherwise = sysconf(_SC_NPROCESSORS_ONLN);
  return count ? count : otherwise > 0 ? (uint64_t)otherwise : 1;
}

json_t *get_system_info(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  struct utsname names;
  struct sysinfo figures;
  char boot_id[64] = "";
  if (uname(&names) || sysinfo(&figures)) return refuse_errno("the system");
  read_text("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
  boot_id[strcspn(boot_id, "\n")] = 0;
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:I}", "os", os_release(), "kernel",
                   short_text(names.release, MAX_TEXT), "architecture",
                   short_text(names.machine, MAX_NAME), "hostname", short_text(names.nodename, MAX_NAME),
                   "cpus", number(processors()), "memory_bytes",
                   number((uint64_t)figures.totalram * figures.mem_unit), "uptime", seconds_up(),
                   "boot_id", short_text(boot_id, MAX_NAME), "time", (json_int_t)nanoseconds_now());
}
