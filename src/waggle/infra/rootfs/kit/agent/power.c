// SPDX-License-Identifier: Apache-2.0
// shutdown and reboot: by the machine's init, or at once. Whether that can be done is found out before
// the answer, and it is done after it.
#include "facts.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

// systemd's signals are counted from glibc's SIGRTMIN, which musl's is not.
#define SYSTEMD_POWER_OFF (34 + 4)
#define SYSTEMD_REBOOT (34 + 5)
#define BUSYBOX_POWER_OFF SIGUSR2
#define BUSYBOX_REBOOT SIGTERM
#define SHUTDOWN "/sbin/shutdown"
#define SYNC_TIME 10000 // milliseconds; a disk that hangs must not keep the machine up

static bool is_off; // or a reboot
static int wanted_signal;

static void signal_init(void) { kill(1, wanted_signal); }

static void run_shutdown(void) {
  static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", NULL};
  char *const argv[] = {SHUTDOWN, is_off ? "-h" : "-r", "now", NULL};
  if (fork() != 0) return;
  setsid();
  int nothing = open("/dev/null", O_RDWR);
  for (int fd = 0; nothing >= 0 && fd < 3; fd++) dup2(nothing, fd);
  execve(SHUTDOWN, argv, environment);
  _exit(127);
}

static void sync_for_a_while(void) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return;
  if (fork() == 0) {
    sync();
    _exit(0);
  }
  close(ends[1]);
  poll(&(struct pollfd){.fd = ends[0], .events = POLLIN}, 1, SYNC_TIME);
}

static void end_at_once(void) {
  sync_for_a_while();
  // Without ACPI, as in waggle's own machines, the kernel would only halt: a restart ends those.
  bool halts = init == INIT_BUSYBOX && access("/sys/firmware/acpi", F_OK);
  reboot(is_off && !halts ? RB_POWER_OFF : RB_AUTOBOOT);
}

static enum init find_init(void) {
  char program[MAX_PATH], *name;
  struct stat status;
  if (init != INIT_AUTO) return init;
  if (stat("/run/systemd/system", &status) == 0 && S_ISDIR(status.st_mode)) return INIT_SYSTEMD;
  ssize_t length = readlink("/proc/1/exe", program, sizeof program - 1);
  program[length < 0 ? 0 : length] = 0;
  name = strrchr(program, '/');
  return name && strcmp(name, "/busybox") == 0 ? INIT_BUSYBOX : INIT_AUTO;
}

static json_t *by_signal(int power_off, int restart) {
  if (kill(1, 0)) return refuse_errno("the machine's init");
  wanted_signal = is_off ? power_off : restart;
  afterwards = signal_init;
  return json_object();
}

static json_t *by_init(void) {
  switch (find_init()) {
    case INIT_SYSTEMD: return by_signal(SYSTEMD_POWER_OFF, SYSTEMD_REBOOT);
    case INIT_BUSYBOX: return by_signal(BUSYBOX_POWER_OFF, BUSYBOX_REBOOT);
    case INIT_AUTO: break;
  }
  if (access(SHUTDOWN, X_OK))
    return refuse(UNSUPPORTED, NULL, NULL, "the machine's init is none that is known");
  afterwards = run_shutdown;
  return json_object();
}

static json_t *end_machine(const json_t *params, bool off) {
  const char *manner = text_param(params, "manner");
  is_off = off;
  if (!manner || strcmp(manner, "graceful") == 0) return by_init();
  if (strcmp(manner, "forced"))
    return refuse(INVALID_PARAMS, "parameter", "manner", "manner: must be graceful or forced");
  if (!has_capability(CAP_SYS_BOOT))
    return refuse(FAILED, "errno", "EPERM", "the agent may not end the machine");
  afterwards = end_at_once;
  return json_object();
}

json_t *shutdown_machine(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  return end_machine(params, true);
}

json_t *reboot_machine(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  return end_machine(params, false);
}
