// SPDX-License-Identifier: Apache-2.0
// Preloaded into dropbear, for five things:
// - Before its `main`, it waits on descriptor 0, a socket, for the connection that it serves, and
//   says that it does (server.c).
// - It gives up on a connection whose addresses it cannot print, as those of vsock. It only logs
//   them, so any will do; who may connect was decided before (doors.c). All other sockets, such as
//   those of forwarded ports, keep their own addresses.
// - It stirs statistics from /proc into its random state, beside bytes of the kernel's generator,
//   which is all that counts: it finds none, and a machine that has just begun to run saves a
//   fifth of its work for a connection.
// - It sends on what it has for a forwarded connection at once: a few bytes would wait for 40 ms for
//   the word that those before have come.
// - It sends at most 16 KiB at once over vsock: the kernel makes more than some 32 KiB a packet of
//   several pieces (virtio_vsock_alloc_skb in linux/virtio_vsock.h), and Firecracker before 1.14 may
//   send pieces of one twice (its pull request 5485). dropbear writes to its connection by writev
//   alone, and goes on after what was sent (its packet.c).
// Needs no library's headers: it runs beside glibc, and the compiler here is set up for musl.

#define AF_INET 2
#define AF_VSOCK 40
#define PACKET 16384
#define PARTS 64 // of one writev: dropbear has at most 50
#define SYS_CLOSE 3
#define SYS_WRITE 1
#define SYS_WRITEV 20
#define SYS_OPEN 2
#define SYS_DUP2 33
#define SYS_RECVMSG 47
#define SYS_GETSOCKNAME 51
#define SYS_GETPEERNAME 52
#define SYS_ACCEPT 43
#define SYS_SETSOCKOPT 54
#define SYS_EXIT_GROUP 231
#define IPPROTO_TCP 6
#define TCP_NODELAY 1
#define ENOENT 2
#define ECONNRESET 104

struct address {
  unsigned short family;
  unsigned char rest[14]; // all zero for AF_INET: 0.0.0.0, port 0
};

extern int *__errno_location(void);

static long call(long number, long first, const void *second, const void *third) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(first), "S"(second), "d"(third)
                   : "rcx", "r11", "memory");
  return result;
}

static long answer(long result) {
  return result < 0 ? (*__errno_location() = (int)-result, -1) : result;
}

static int ask(long number, int fd, struct address *address, unsigned int *size) {
  long result = call(number, fd, address, size);
  if (result == 0 && address->family == AF_VSOCK && *size == sizeof *address)
    *address = (struct address){.family = AF_INET};
  return (int)answer(result);
}

int getpeername(int fd, struct address *address, unsigned int *size) {
  return ask(SYS_GETPEERNAME, fd, address, size);
}

int getsockname(int fd, struct address *address, unsigned int *size) {
  return ask(SYS_GETSOCKNAME, fd, address, size);
}

static long set_option(int fd, long level, long name, const int *value) {
  register long size __asm__("r8") = sizeof *value;
  register const int *data __asm__("r10") = value;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_SETSOCKOPT), "D"((long)fd), "S"(level), "d"(name), "r"(data), "r"(size)
                   : "rcx", "r11", "memory");
  return result;
}

int accept(int fd, struct address *address, unsigned int *size) {
  const int on = 1;
  long connection = call(SYS_ACCEPT, fd, address, size);
  if (connection >= 0) set_option((int)connection, IPPROTO_TCP, TCP_NODELAY, &on);
  return (int)answer(connection);
}

int open(const char *path, int flags, unsigned mode) {
  const char *at = path, *statistics = "/proc/";
  while (*statistics && *at == *statistics) at++, statistics++;
  if (!*statistics) return (int)answer(-ENOENT);
  return (int)answer(call(SYS_OPEN, (long)path, (const void *)(long)flags, (const void *)(long)mode));
}

// From sys/socket.h: what recvmsg fills in.
struct part {
  void *data;
  unsigned long size;
};
struct control {
  unsigned long size;
  int level, type;
  int descriptor, padding;
};
struct message {
  void *name;
  unsigned long name_size;
  struct part *parts;
  unsigned long count;
  struct control *control;
  unsigned long control_size;
  unsigned long flags;
};

static char is_vsock; // the connection, which is descriptors 0 and 1

long writev(int fd, const struct part *parts, int count) {
  struct part sent[PARTS];
  unsigned long room = PACKET;
  int used = 0;
  if (!is_vsock || fd > 1) return answer(call(SYS_WRITEV, fd, parts, (const void *)(long)count));
  for (; used < count && used < PARTS && room > 0; used++) {
    sent[used] = parts[used];
    if (sent[used].size > room) sent[used].size = room;
    room -= sent[used].size;
  }
  return answer(call(SYS_WRITEV, fd, sent, (const void *)(long)used));
}

__attribute__((constructor)) static void take_connection(void) {
  char byte = 0;
  struct address address;
  unsigned int size = sizeof address;
  struct part part = {&byte, 1};
  struct control control = {.descriptor = -1};
  struct message message = {.parts = &part,
                            .count = 1,
                            .control = &control,
                            .control_size = sizeof control};
  call(SYS_WRITE, 0, &byte, (const void *)1);
  long taken = call(SYS_RECVMSG, 0, &message, 0);
  // PID 1 may have closed its end by now, without having read the byte: that error comes first, once.
  if (taken == -ECONNRESET) taken = call(SYS_RECVMSG, 0, &message, 0);
  if (taken != 1 || control.descriptor < 0) call(SYS_EXIT_GROUP, 0, 0, 0);
  call(SYS_DUP2, control.descriptor, (const void *)0, 0);
  call(SYS_DUP2, control.descriptor, (const void *)1, 0);
  call(SYS_CLOSE, control.descriptor, 0, 0);
  is_vsock = call(SYS_GETSOCKNAME, 0, &address, &size) == 0 && address.family == AF_VSOCK;
}
