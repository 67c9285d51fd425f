// SPDX-License-Identifier: Apache-2.0
// The machine around PID 1, on a test's host: linked with its sources and --wrap. vsock is Unix sockets
// in DIRECTORY: PID 1 listens on `guest_PORT` and calls `host_PORT`; who calls it from `cidN...` has
// that CID. The kernel's command line, the agent and its policy are files there, the kernel's messages
// packets that come from descriptor MESSAGES.
#include "../../../src/waggle/infra/rootfs/kit/guest/channels.h"
#include "../../../src/waggle/infra/rootfs/kit/guest/vsock.h"
#include "../../../src/waggle/infra/rootfs/kit/guest/waggle.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

int __real_open(const char *path, int flags, ...);
int __real_socket(int family, int type, int protocol);
int __real_bind(int fd, const struct sockaddr *address, socklen_t size);
int __real_connect(int fd, const struct sockaddr *address, socklen_t size);
int __real_getpeername(int fd, struct sockaddr *address, socklen_t *size);

static struct sockaddr_un place(const char *kind, const struct sockaddr *address) {
  struct sockaddr_un made = {.sun_family = AF_UNIX};
  unsigned port = ((const struct vsock_address *)address)->port;
  snprintf(made.sun_path, sizeof made.sun_path, "%s/%s_%u", getenv("DIRECTORY"), kind, port);
  return made;
}

int __wrap_socket(int family, int type, int protocol) {
  return __real_socket(family == AF_VSOCK ? AF_UNIX : family, type, protocol);
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t size) {
  struct sockaddr_un where = place("guest", address);
  (void)size;
  return __real_bind(fd, (struct sockaddr *)&where, sizeof where);
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size) {
  struct sockaddr_un where = place("host", address);
  (void)size;
  return __real_connect(fd, (struct sockaddr *)&where, sizeof where);
}

int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *size) {
  struct sockaddr_un peer = {0};
  struct vsock_address caller = {.family = AF_VSOCK};
  socklen_t used = sizeof peer;
  if (__real_getpeername(fd, (struct sockaddr *)&peer, &used)) return -1;
  const char *name = strstr(peer.sun_path, "/cid");
  if (name) caller.cid = (unsigned)strtoul(name + 4, NULL, 10);
  memcpy(address, &caller, *size < sizeof caller ? *size : sizeof caller);
  return 0;
}

int __wrap_open(const char *path, int flags, ...) {
  static const char *const moved[] = {"/proc/cmdline", KIT "/bin/waggle-agent", KIT "/etc/agent.json"};
  char other[256];
  va_list more;
  va_start(more, flags);
  int mode = flags & O_CREAT ? va_arg(more, int) : 0;
  va_end(more);
  if (strcmp(path, "/dev/kmsg") == 0) return fcntl(atoi(getenv("MESSAGES")), F_DUPFD_CLOEXEC, 3);
  for (size_t i = 0; i < LENGTH(moved); i++)
    if (strcmp(path, moved[i]) == 0) {
      snprintf(other, sizeof other, "%s%s", getenv("DIRECTORY"), strrchr(path, '/'));
      return __real_open(other, flags, mode);
    }
  return __real_open(path, flags, mode);
}

int __wrap_mount(const char *source, const char *target, const char *type, unsigned long flags,
                 const void *data) {
  (void)source, (void)target, (void)type, (void)flags, (void)data;
  return 0;
}

bool mount_all(const struct mount_point *points, size_t count) { return (void)points, count > 0; }

// What PID 1 has besides, as far as records of a renewal come to it: `hostname` is said on the console,
// `end` ends it.
void set_hostname(const char *name, size_t size) { dprintf(1, "host %.*s\n", (int)size, name); }
void overwrite(const char *path, mode_t mode, const char *data, size_t size) {
  (void)path, (void)mode, (void)data, (void)size;
}
void offer_names(void) {}
void reach_anew(void) {}
long keep_reaching(void) { return -1; }
void reach_ended(pid_t pid, int status) { (void)pid, (void)status; }
void serve(int connection) { (void)connection; }
bool keep_spare(void) { return true; }
void server_ended(pid_t pid) { (void)pid; }
bool server_is_settled(void) { return true; }
void hang_up(void) {}

static bool is_over;
void expect_end(sigset_t *blocked) { (void)blocked; }
bool plan_end(const char *data, size_t size) { return (void)data, is_over = true, size == 4; }
bool end_is_due(void) { return is_over; }
void end_machine(void) {
  dprintf(1, "waggle: ended\n");
  close_console();
  _exit(0);
}

int main(void) {
  open_console();
  supervise();
}
