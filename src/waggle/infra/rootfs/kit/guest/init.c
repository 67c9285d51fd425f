// SPDX-License-Identifier: Apache-2.0
// PID 1 of every machine: disks into one root, network, identity, account, then SSH and the agent.
// A step that fails ends the machine; the host reads the reason on the console.
#include "channels.h"
#include "waggle.h"

#include <stdio.h>
#include <sys/reboot.h>
#include <unistd.h>

static bool identity_installed(void) { return install_identity("/dev/vdd"); }

static bool (*const STEPS[])(void) = {mount_everything,   network_up,         devices_ready,
                                      image_becomes_root, identity_installed, install_account};

int main(void) {
  bool good = true;
  open_console();
  for (size_t i = 0; good && i < LENGTH(STEPS); i++) good = STEPS[i](), pass_console();
  if (good) supervise();
  dprintf(2, "waggle: boot failed\n");
  close_console();
  sync();
  reboot(RB_AUTOBOOT); // with -no-reboot this ends the VMM: the kernel cannot power off
  return 1;
}
