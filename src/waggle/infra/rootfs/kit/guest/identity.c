// SPDX-License-Identifier: Apache-2.0
// What makes this machine this environment: keys, name, variables, certificates. They arrive on
// a small disk as records: u32 name length, u32 size (little endian), name, data; then a zero.
#include "waggle.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define NEW "/merged"
#define BUNDLE NEW "/etc/ssl/certs/ca-certificates.crt"
#define MAX_RECORD (8u << 20)

static bool has_user(const char *path, const char *name) {
  char line[1024];
  FILE *file = fopen(path, "re");
  bool found = false;
  while (file && !found && fgets(line, sizeof line, file))
    found = strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':';
  if (file) fclose(file);
  return found;
}

static void append(const char *path, const char *text) {
  write_file(path, O_APPEND, 0644, text, strlen(text));
}

// The image keeps its own users; it gains only those that waggle needs and that it lacks.
static void add_users(void) {
  if (!has_user(NEW "/etc/passwd", "root"))
    append(NEW "/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  if (!has_user(NEW "/etc/group", "root")) append(NEW "/etc/group", "root:x:0:\n");
  if (!has_user(NEW "/etc/passwd", "sandbox"))
    append(NEW "/etc/passwd", "sandbox:x:1000:1000:waggle:" SANDBOX_HOME ":/bin/sh\n");
  if (!has_user(NEW "/etc/group", "sandbox")) append(NEW "/etc/group", "sandbox:x:1000:\n");
}

static void set_hostname(const char *name, size_t size) {
  char line[160];
  sethostname(name, size);
  snprintf(line, sizeof line, "127.0.0.1 localhost %.*s\n::1 localhost\n", (int)size, name);
  unlink(NEW "/etc/hosts");
  append(NEW "/etc/hosts", line);
  // Nothing answers there, so a lookup fails at once instead of hanging: names are the proxy's job.
  unlink(NEW "/etc/resolv.conf");
  append(NEW "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
}

static void trust(const char *pem, size_t size) {
  mkdir(NEW "/etc/ssl", 0755);
  mkdir(NEW "/etc/ssl/certs", 0755);
  write_file(BUNDLE, O_APPEND, 0644, pem, size);
  write_file(NEW "/etc/ssl/certs/waggle-ca.pem", O_TRUNC, 0644, pem, size);
}

static bool install_record(const char *name, const char *data, size_t size) {
  if (strcmp(name, "hostname") == 0) return set_hostname(data, size), true;
  if (strcmp(name, "ca.pem") == 0) return trust(data, size), true;
  char path[128];
  if (strchr(name, '/') || snprintf(path, sizeof path, "/run/identity/%s", name) >= 128) return false;
  bool is_public = strcmp(name, "environment") == 0;
  return write_file(path, O_TRUNC, is_public ? 0644 : 0600, data, size);
}

bool install_identity(const char *device) {
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return complain(device), false;
  mkdir("/run/identity", 0711);
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
  add_users();
  return good;
}
