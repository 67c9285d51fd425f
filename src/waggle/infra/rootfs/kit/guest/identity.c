// SPDX-License-Identifier: Apache-2.0
// What makes this machine this environment: keys, name, variables, certificates. They arrive on
// a small disk as records: u32 name length, u32 size (little endian), name, data; then a zero.
// Runs in the image's root, so that links in the image lead to places in the image.
#include "waggle.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define BUNDLE "/etc/ssl/certs/ca-certificates.crt"
#define MAX_RECORD (8u << 20)

static void append(const char *path, const char *text) {
  write_file(path, O_APPEND, 0644, text, strlen(text));
}

static void set_hostname(const char *name, size_t size) {
  char line[160];
  sethostname(name, size);
  snprintf(line, sizeof line, "127.0.0.1 localhost %.*s\n::1 localhost\n", (int)size, name);
  unlink("/etc/hosts");
  append("/etc/hosts", line);
  // Nothing answers there, so a lookup fails at once instead of hanging: names are the proxy's job.
  unlink("/etc/resolv.conf");
  append("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
}

static void trust(const char *pem, size_t size) {
  mkdir("/etc/ssl", 0755);
  mkdir("/etc/ssl/certs", 0755);
  write_file(BUNDLE, O_APPEND, 0644, pem, size);
  write_file("/etc/ssl/certs/waggle-ca.pem", O_TRUNC, 0644, pem, size);
}

static bool install_record(const char *name, const char *data, size_t size) {
  if (strcmp(name, "hostname") == 0) return set_hostname(data, size), true;
  if (strcmp(name, "ca.pem") == 0) return trust(data, size), true;
  char path[128];
  if (strchr(name, '/') || snprintf(path, sizeof path, KIT_IDENTITY "/%s", name) >= 128) return false;
  bool is_public = strcmp(name, "environment") == 0;
  return write_file(path, O_TRUNC, is_public ? 0644 : 0600, data, size);
}

bool install_identity(const char *device) {
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return complain(device), false;
  mkdir(KIT_IDENTITY, 0711);
  uint32_t sizes[2];
  bool good = true;
  while (good && read_exactly(fd, sizes, sizeof sizes) && sizes[0] != 0) {
    char name[64] = {0};
    char *data = sizes[0] < sizeof name && sizes[1] <= MAX_RECORD ? malloc(sizes[1] + 1) : NULL;
    good = data && read_exactly(fd, name, sizes[0]) && read_exactly(fd, data, sizes[1]) &&
           install_record(name, data, sizes[1]);
    free(data);
  }
  close(fd);
  return good;
}
