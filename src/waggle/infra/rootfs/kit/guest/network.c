// SPDX-License-Identifier: Apache-2.0
// lo, and eth0 where the hypervisor gives one (QEMU's user network). There is never a route out.
#include "waggle.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool configure(int fd, const char *name, const char *address) {
  struct ifreq request = {0};
  struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, SIOCGIFFLAGS, &request) != 0) return false;
  short flags = request.ifr_flags;
  if (address) {
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    ioctl(fd, SIOCSIFADDR, &request);
    inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
    ioctl(fd, SIOCSIFNETMASK, &request);
  }
  request.ifr_flags = flags | IFF_UP | IFF_RUNNING;
  return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

bool network_up(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || !configure(fd, "lo", NULL)) return complain("lo"), false;
  configure(fd, "eth0", "10.0.2.15");
  close(fd);
  return true;
}
