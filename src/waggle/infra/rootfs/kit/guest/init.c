// SPDX-License-Identifier: Apache-2.0
// PID 1 of every machine: disks into one root, network, identity, account, then SSH and the agent.
// A step that fails ends the machine; the host reads the reason on the console.
#include "waggle.h"

#include <sys/reboot.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  if (mount_everything() && network_up() && devices_ready() && image_becomes_root() &&
      install_identity("/dev/vdd") && install_account())
    supervise();
  dprintf(2, "waggle: boot failed\n");
  sync();
  reboot(RB_AUTOBOOT); // with -no-reboot this ends the VMM: the kernel cannot power off
  return 1;
}
