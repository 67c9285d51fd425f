// SPDX-License-Identifier: Apache-2.0
// The virtio console's named ports, which lead to the host. Opened once and kept: the kernel gives
// a port to one opener, and libkrun ends the machine when one is opened a second time.
#include "waggle.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int open_port(const char *wanted) {
  DIR *ports = opendir("/sys/class/virtio-ports");
  int found = -1;
  struct dirent *entry;
  while (ports && found < 0 && (entry = readdir(ports))) {
    char path[300], name[64] = {0};
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t size = read(fd, name, sizeof name - 1);
    close(fd);
    if (size > 0) name[strcspn(name, "\n")] = 0;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    if (!strcmp(name, wanted)) found = open(path, O_RDWR | O_CLOEXEC);
  }
  if (ports) closedir(ports);
  return found;
}
