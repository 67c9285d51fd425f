// SPDX-License-Identifier: Apache-2.0
// set_time: the system's clock, and the clock that runs while the machine is off.
#include "facts.h"

#include <fcntl.h>
#include <linux/rtc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000

// hwclock(8) notes here that a machine keeps local time, for the sake of another system on it.
static bool is_local(void) {
  char lines[512];
  return read_text("/etc/adjtime", lines, sizeof lines) && strstr(lines, "\nLOCAL");
}

static void set_hardware_clock(time_t seconds) {
  struct tm parts;
  if (is_local() || !gmtime_r(&seconds, &parts)) return;
  int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  struct rtc_time time = {.tm_sec = parts.tm_sec,
                          .tm_min = parts.tm_min,
                          .tm_hour = parts.tm_hour,
                          .tm_mday = parts.tm_mday,
                          .tm_mon = parts.tm_mon,
                          .tm_year = parts.tm_year};
  ioctl(fd, RTC_SET_TIME, &time);
  close(fd);
}

json_t *set_time(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  int64_t wanted = integer_param(params, "time", 0);
  struct timespec time = {.tv_sec = wanted / SECOND, .tv_nsec = wanted % SECOND};
  if (clock_settime(CLOCK_REALTIME, &time)) return refuse_errno("set the clock");
  set_hardware_clock(time.tv_sec);
  return json_pack("{s:I}", "time", (json_int_t)nanoseconds_now());
}
