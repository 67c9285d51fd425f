// SPDX-License-Identifier: Apache-2.0
// What makes this machine this environment: keys, name, variables, certificates, the kernel's
// random state, the time. They arrive on a small disk, and when a copy of a frozen machine is to
// become another environment through a port, as records: u32 name length, u32 size (little
// endian), name, data; then two zeros.
// Runs in the image's root, so that links in the image lead to places in the image.
#include "reaching.h"
#include "waggle.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define BUNDLE "/etc/ssl/certs/ca-certificates.crt"
#define OWN_CERTIFICATES "/etc/ssl/certs/waggle-ca.pem"
#define LOCAL "/usr/local/share/ca-certificates"
#define MAX_RECORD (8u << 20)
#define MAX_SEED 64
#define UUID_LINE 37 // with its end
#define DRAWN_UUID "/proc/sys/kernel/random/uuid"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define OWN_BOOT_ID KIT_IDENTITY "/boot_id"
#define BILLION 1000000000u
// From linux/random.h, which musl does not have.
#define RNDADDENTROPY _IOW('R', 3, int[2])
#define RNDRESEEDCRNG _IO('R', 7)

// Where distributions keep all certificates that do not call them as Debian does.
static const char *const OTHER_BUNDLES[] = {"/etc/pki/tls/certs/ca-bundle.crt",
                                            "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};

static bool has_content(const char *path, const char *data, size_t size) {
  struct stat about;
  char *found = NULL;
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  bool same = fd >= 0 && fstat(fd, &about) == 0 && about.st_size == (off_t)size &&
              (found = malloc(size + 1)) && read_exactly(fd, found, size) &&
              memcmp(found, data, size) == 0;
  free(found);
  if (fd >= 0) close(fd);
  return same;
}

// These certificates are added to the image's own, once. What makes the bundle anew, such as the
// installation of a package, takes them from LOCAL.
static void trust(const char *pem, size_t size) {
  if (has_content(OWN_CERTIFICATES, pem, size)) return;
  mkdir("/etc/ssl", 0755);
  mkdir("/etc/ssl/certs", 0755);
  for (size_t i = 0; i < LENGTH(OTHER_BUNDLES) && access(BUNDLE, F_OK) != 0; i++)
    if (access(OTHER_BUNDLES[i], F_OK) == 0 && symlink(OTHER_BUNDLES[i], BUNDLE)) complain(BUNDLE);
  write_file(BUNDLE, O_APPEND, 0644, pem, size);
  write_file(OWN_CERTIFICATES, O_TRUNC, 0644, pem, size);
  mkdir("/usr/local/share", 0755);
  mkdir(LOCAL, 0755);
  if (access(LOCAL, W_OK) == 0) write_file(LOCAL "/waggle.crt", O_TRUNC, 0644, pem, size);
}

static void name_machine(const char *id, size_t size) {
  overwrite("/etc/machine-id", 0444, id, size); // it is often a link, or empty
}

// Mix SEED into what the kernel draws random bytes from, and have it draw anew at once.
static bool seed_kernel(const char *seed, size_t size) {
  struct {
    int bits, size;
    char data[MAX_SEED];
  } pool = {.bits = (int)size * 8, .size = (int)size};
  int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  bool good = fd >= 0 && size <= MAX_SEED;
  if (good) memcpy(pool.data, seed, size);
  good = good && ioctl(fd, RNDADDENTROPY, &pool) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
  if (!good) complain("seed");
  if (fd >= 0) close(fd);
  return good;
}

static bool read_uuid(const char *path, char line[UUID_LINE]) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool good = fd >= 0 && read_exactly(fd, line, UUID_LINE);
  if (fd >= 0) close(fd);
  return good;
}

// The kernel draws its boot id once, so all copies of a frozen machine have the same. A file with a
// new one lies over it from the first renewal on, in the namespace of programs; root can take it
// away, and a container with a /proc of its own sees the kernel's.
static void renew_boot_id(void) {
  char fresh[UUID_LINE], seen[UUID_LINE];
  bool good = read_uuid(DRAWN_UUID, fresh) && write_file(OWN_BOOT_ID, O_TRUNC, 0444, fresh, UUID_LINE);
  bool is_there = good && read_uuid(BOOT_ID, seen) && memcmp(seen, fresh, UUID_LINE) == 0;
  if (!good || (!is_there && mount(OWN_BOOT_ID, BOOT_ID, NULL, MS_BIND, NULL) != 0)) complain(BOOT_ID);
}

static bool set_clock(const char *data, size_t size) {
  uint64_t now;
  if (size != sizeof now) return false;
  memcpy(&now, data, sizeof now);
  struct timespec time = {.tv_sec = (time_t)(now / BILLION), .tv_nsec = (long)(now % BILLION)};
  return clock_settime(CLOCK_REALTIME, &time) == 0;
}

// Move the clock by so many nanoseconds, at once, however long they were under way.
static bool step_clock(const char *data, size_t size) {
  int64_t by;
  if (size != sizeof by) return false;
  memcpy(&by, data, sizeof by);
  int64_t micros = by / 1000, left = micros % 1000000;
  if (left < 0) left += 1000000;
  struct timex change = {.modes = ADJ_SETOFFSET,
                         .time = {.tv_sec = (time_t)((micros - left) / 1000000), .tv_usec = left}};
  return adjtimex(&change) >= 0;
}

static bool install_record(const char *name, const char *data, size_t size, bool is_renewal) {
  if (strcmp(name, "hostname") == 0) return set_hostname(data, size), true;
  if (strcmp(name, "ca.pem") == 0) return trust(data, size), true;
  if (strcmp(name, "machine-id") == 0) return name_machine(data, size), true;
  if (strcmp(name, "seed") == 0) {
    if (!seed_kernel(data, size)) return false;
    if (is_renewal) renew_boot_id(); // not before the seed, or copies would draw the same
    return true;
  }
  if (strcmp(name, "clock") == 0) return set_clock(data, size);
  if (strcmp(name, "step") == 0) return step_clock(data, size);
  if (strcmp(name, "agent-policy") == 0) return narrow_agent(data, size);
  if (is_renewal && strcmp(name, "restart-agent") == 0) return restart_agent(), true;
  if (is_renewal && strcmp(name, "settle") == 0) return settle(), true;
  if (is_renewal && strcmp(name, "hang-up") == 0) return hang_up(), true;
  if (is_renewal && strcmp(name, "end") == 0) return plan_end(data, size);
  bool is_network = strcmp(name, "network") == 0;
  char path[128];
  if (strchr(name, '/') || snprintf(path, sizeof path, KIT_IDENTITY "/%s", name) >= 128) return false;
  bool is_public = strcmp(name, "environment") == 0;
  if (!write_file(path, O_TRUNC, is_public ? 0644 : 0600, data, size)) return false;
  if (is_network && is_renewal) offer_names(), reach_anew();
  return true;
}

bool install_records(int fd, bool is_renewal) {
  uint32_t sizes[2];
  for (;;) {
    if (!read_exactly(fd, sizes, sizeof sizes)) return false;
    if (sizes[0] == 0) return true;
    char name[64] = {0};
    char *data = sizes[0] < sizeof name && sizes[1] <= MAX_RECORD ? malloc(sizes[1] + 1) : NULL;
    bool good = data && read_exactly(fd, name, sizes[0]) && read_exactly(fd, data, sizes[1]) &&
                install_record(name, data, sizes[1], is_renewal);
    free(data);
    if (!good) return false;
  }
}

bool install_identity(const char *device) {
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return complain(device), false;
  mkdir(KIT_IDENTITY, 0711);
  bool good = install_records(fd, false);
  close(fd);
  return good;
}
