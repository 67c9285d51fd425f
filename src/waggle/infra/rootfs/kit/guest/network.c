// SPDX-License-Identifier: Apache-2.0
// lo, and eth0 where the hypervisor gives one (QEMU's user network), which leads to the SSH server
// and nowhere else. It stays behind with that listener in a name space that programs are not in: they
// have lo alone, as with any hypervisor, and every port is theirs. There is never a route out.
#include "waggle.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool configure(const char *name, const char *address) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {0};
  struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  bool good = fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0;
  short flags = request.ifr_flags;
  if (good && address) {
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    ioctl(fd, SIOCSIFADDR, &request);
    inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
    ioctl(fd, SIOCSIFNETMASK, &request);
  }
  request.ifr_flags = flags | IFF_UP | IFF_RUNNING;
  good = good && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
  if (fd >= 0) close(fd);
  return good;
}

bool network_up(void) {
  if (configure("eth0", CARD_ADDRESS)) {
    open_card_door();
    if (unshare(CLONE_NEWNET)) complain("network name space");
  }
  return configure("lo", NULL) || (complain("lo"), false);
}
