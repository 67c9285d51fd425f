// SPDX-License-Identifier: Apache-2.0
// Routes: far addresses become this machine's own, so that the kernel asks steer.c about them. Ranges
// that are not ours keep "unreachable", and more special routes, as those of containers, win. What
// stands for names is within 0.0.0.0/0, which every record of a network has, and so are spare ranges:
// they get no route, so that one to all of such a range is more special, too.
#include "reach.h"
#include "waggle.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROTOCOL 198 // marks our routes
#define MAX_ROUTES 1024 // looked through for ours
#define LO 1

// From linux/netlink.h and linux/rtnetlink.h, which musl does not have.
enum { DONE = 3, NEW_ADDRESS = 20, DROP_ADDRESS = 21, NEW_ROUTE = 24, DROP_ROUTE = 25, GET_ROUTE = 26 };
enum { REQUEST = 1, ACKNOWLEDGE = 4, CREATE = 0x400, REPLACE = 0x100, DUMP = 0x300 };
enum { DESTINATION = 1, INTERFACE = 4, SOURCE = 7, LOCAL = 2, THROW = 9, LOCAL_TABLE = 255 };
enum { ADDRESS = 1, LOCAL_ADDRESS = 2, HOST_SCOPE = 254 };

struct header {
  uint32_t size;
  uint16_t type, flags;
  uint32_t sequence, port;
};
struct route {
  uint8_t family, bits, source_bits, service, table, protocol, scope, kind;
  uint32_t flags;
};
struct message {
  struct header header;
  union {
    struct route route;
    struct {
      uint8_t family, bits, flags, scope;
      uint32_t interface;
    } address;
    int32_t error;
  };
  unsigned char attributes[64];
};

static void attach(struct message *message, uint16_t kind, uint32_t value) {
  uint16_t head[2] = {4 + sizeof value, kind};
  unsigned char *at = (unsigned char *)message + message->header.size;
  memcpy(at, head, sizeof head);
  memcpy(at + sizeof head, &value, sizeof value);
  message->header.size += (uint32_t)(sizeof head + sizeof value);
}

// 0, or the error; one that means that it is so already is none.
static int tell(int fd, struct message *message) {
  struct message answer = {0};
  message->header.flags |= REQUEST | ACKNOWLEDGE;
  if (send(fd, message, message->header.size, 0) < 0) return errno;
  if (recv(fd, &answer, sizeof answer, MSG_TRUNC) < 20) return EIO;
  int error = -answer.error;
  return error == EEXIST || error == EADDRNOTAVAIL || error == ESRCH ? 0 : error;
}

static bool add_route(int fd, const struct range *range) {
  bool is_ours = range->whose == OURS;
  if (range->whose == SPARE) return true;
  struct message message = {.header = {.size = 28, .type = NEW_ROUTE, .flags = CREATE | REPLACE}};
  message.route = (struct route){.family = AF_INET,
                                 .bits = range->bits,
                                 .table = LOCAL_TABLE,
                                 .protocol = PROTOCOL,
                                 .scope = is_ours ? HOST_SCOPE : 0,
                                 .kind = is_ours ? LOCAL : THROW};
  attach(&message, DESTINATION, htonl(range->address));
  if (is_ours) attach(&message, INTERFACE, LO), attach(&message, SOURCE, htonl(OWN_ADDRESS));
  return (errno = tell(fd, &message)) == 0;
}

// Programs take a machine whose only address is 127.0.0.1 for one without a network.
static bool set_address(int fd, bool is_wanted) {
  struct message message = {.header = {.size = 24, .type = is_wanted ? NEW_ADDRESS : DROP_ADDRESS,
                                       .flags = is_wanted ? CREATE | REPLACE : 0}};
  message.address.family = AF_INET, message.address.bits = 32, message.address.interface = LO;
  attach(&message, LOCAL_ADDRESS, htonl(OWN_ADDRESS));
  attach(&message, ADDRESS, htonl(OWN_ADDRESS));
  return (errno = tell(fd, &message)) == 0;
}

// Ours among the kernel's routes, as messages that would remove them; their count.
static size_t find_routes(int fd, struct message *found, size_t room) {
  struct message question = {.header = {.size = 28, .type = GET_ROUTE, .flags = REQUEST | DUMP}};
  question.route.family = AF_INET;
  static _Alignas(8) unsigned char data[32768];
  size_t count = 0;
  if (send(fd, &question, question.header.size, 0) < 0) return 0;
  for (int rounds = 0; rounds < MAX_ROUTES; rounds++) {
    ssize_t size = recv(fd, data, sizeof data, 0);
    for (ssize_t at = 0; at + 28 <= size;) {
      struct message *message = (void *)(data + at);
      if (message->header.size < 16 || message->header.type == DONE) return count;
      size_t length = message->header.size;
      bool fits = length <= sizeof *message && (ssize_t)length <= size - at && count < room;
      if (fits && message->header.type == NEW_ROUTE && message->route.protocol == PROTOCOL) {
        memset(&found[count], 0, sizeof *found);
        memcpy(&found[count], message, length);
        found[count].header.type = DROP_ROUTE, found[count].header.flags = 0;
        count++;
      }
      at += (ssize_t)(length + 3) & ~3;
    }
    if (size < 16 || ((struct header *)data)->type == DONE) return count;
  }
  return count;
}

bool set_ways(const struct range *ranges, size_t count) {
  static struct message old[2 * MAX_RANGES];
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return complain("routes"), false;
  size_t old_count = find_routes(fd, old, LENGTH(old));
  for (size_t i = 0; i < old_count; i++) tell(fd, &old[i]);
  bool good = set_address(fd, count > 0);
  for (size_t i = 0; i < count && good; i++) good = add_route(fd, &ranges[i]);
  if (!good) complain("routes");
  close(fd);
  return good;
}
