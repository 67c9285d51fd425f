// SPDX-License-Identifier: Apache-2.0
// Preloaded into dropbear, which gives up on a connection whose addresses it cannot print, as those
// of vsock. It only logs them, so any will do; who may connect was decided before (doors.c).
// All other sockets, such as those of forwarded ports, keep their own addresses.
// Needs no library's headers: it runs beside glibc, and the compiler here is set up for musl.

#define AF_INET 2
#define AF_VSOCK 40
#define SYS_GETSOCKNAME 51
#define SYS_GETPEERNAME 52

struct address {
  unsigned short family;
  unsigned char rest[14]; // all zero for AF_INET: 0.0.0.0, port 0
};

extern int *__errno_location(void);

static int ask(long number, long fd, struct address *address, unsigned int *size) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(fd), "S"(address), "d"(size)
                   : "rcx", "r11", "memory");
  if (result < 0) return *__errno_location() = (int)-result, -1;
  if (address->family == AF_VSOCK && *size == sizeof *address)
    *address = (struct address){.family = AF_INET};
  return 0;
}

int getpeername(int fd, struct address *address, unsigned int *size) {
  return ask(SYS_GETPEERNAME, fd, address, size);
}

int getsockname(int fd, struct address *address, unsigned int *size) {
  return ask(SYS_GETSOCKNAME, fd, address, size);
}
