// SPDX-License-Identifier: Apache-2.0
// Three programs of the kernel's. `lookup` is asked who gets a connection or a datagram for a local
// address: what the ranges have, this process does. The first packet of a connection goes to a socket
// where `hold` puts it into a ring and drops it: its program waits. Once there is a verdict the packet
// is sent again (packets.c), and accepted or refused; so a refusal is one to its program, too, and
// nobody is welcome before the proxy has judged. `filter` has what is neither TCP nor a question for
// a name fail at once. In a spare range are addresses of this machine's networks, too, as those of
// containers: what a route of theirs sends has no source of ours, and is left alone.
#include "bpf.h"
#include "reach.h"
#include "waggle.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NET "/proc/self/ns/net"
#define CGROUP "/cgroup" // of all processes
#define MAX_VERDICTS 4096
#define RING_BYTES 65536u
#define VERDICT_NS 10000000000ll // afterwards it is another connection that has the same ports
#define SO_ATTACH_PROGRAM 50
#define TCP 6
#define UDP 17
#define NAMES_PORT 53
#define LO 1

// Fields of struct bpf_sk_lookup, and of __sk_buff.
enum { FAMILY = 8, PROTOCOL = 12, FROM = 16, FROM_PORT = 36, TO = 40, TO_PORT = 60 };
enum { DEVICE = 40, DATA = 76, DATA_END = 80 };

static int sockets = -1, verdicts = -1, calls = -1, ranges_map = -1;
static volatile unsigned long *consumed;
static const unsigned long *produced;
static const unsigned char *ring;

enum { PASS = FIRST_LABEL, REFUSE, HOLD, GIVE, DATAGRAM, ALLOW, OVER_LO, FAR };

// Whether what goes from the address in register 9 to that in 3 is for us, or go to LABEL. Uses the
// stack's last 8 bytes.
#define UNLESS_OURS(label)                                                                        \
  KEEP_VALUE(STACK, -8, 32), KEEP4(STACK, -4, 3), MOVE(2, STACK), ADD(2, -8), MAP(1, ranges_map), \
      CALL(FIND), IF_IS(0, 0, label), LOAD4(0, 0, 0), IF_IS(0, OURS, FAR),                        \
      IF_NOT(0, SPARE, label), IF_NOT(9, __builtin_bswap32(OWN_ADDRESS), label), LABEL(FAR)
#define KEY MOVE(2, STACK), ADD(2, -24), MAP(1, verdicts)
#define SLOT -28

static bool load_lookup(void) {
  struct instruction code[] = {
      MOVE(6, 1), LOAD4(2, 6, FAMILY), IF_NOT(2, AF_INET, PASS),
      LOAD4(3, 6, TO), LOAD4(9, 6, FROM), UNLESS_OURS(PASS),
      LOAD4(2, 6, PROTOCOL), LOAD4(8, 6, TO_PORT), IF_NOT(2, TCP, DATAGRAM),
      SET(7, NAMES_TCP), IF_IS(8, NAMES_PORT, GIVE),
      LOAD4(3, 6, TO), KEEP4(STACK, -24, 3), LOAD4(3, 6, FROM), KEEP4(STACK, -20, 3),
      KEEP4(STACK, -16, 8), LOAD2(3, 6, FROM_PORT), KEEP4(STACK, -12, 3),
      CALL(NOW), MOVE(9, 0),
      KEY, CALL(FIND), IF_IS(0, 0, HOLD),
      LOAD8(8, 0, 0), KEY, CALL(DELETE), // it is for one packet
      IF_LESS(8, 9, HOLD), AND(8, 3), IF_NOT(8, WELCOME, REFUSE),
      SET(7, ACCEPTING), GO(GIVE),
      LABEL(HOLD), SET(7, HOLDING), GO(GIVE),
      LABEL(DATAGRAM), SET(7, NAMES_UDP), IF_NOT(2, UDP, PASS), IF_NOT(8, NAMES_PORT, REFUSE),
      LABEL(GIVE), KEEP4(STACK, SLOT, 7), MOVE(2, STACK), ADD(2, SLOT), MAP(1, sockets), CALL(FIND),
      IF_IS(0, 0, REFUSE), MOVE(9, 0),
      MOVE(1, 6), MOVE(2, 9), SET(3, 0), CALL(ASSIGN), MOVE(1, 9), CALL(RELEASE),
      LABEL(PASS), SET(0, 1), RETURN,
      LABEL(REFUSE), SET(0, 0), RETURN,
  };
  return load_at(NET, SOCKET_LOOKUP, PLACE_LOOKUP, code, LENGTH(code));
}

// A packet that finds no room in the ring is repeated by its program's kernel after a second.
enum { CALL_AT = -(int)sizeof(struct call), HEADER_AT = CALL_AT + (int)CALL_KEY };
#define ADDRESS(from, field)                                                                      \
  MOVE(1, 6), SET(2, from), MOVE(3, STACK), ADD(3, CALL_AT + (int)offsetof(struct call, field)),  \
      SET(4, 4), SET(5, HEADER_OF_NETWORK), CALL(LOAD_FROM), IF_NOT(0, 0, REFUSE)

static int load_hold(void) {
  struct instruction code[] = {
      MOVE(6, 1), SET(7, 0),
      KEEP8(STACK, CALL_AT, 7), KEEP8(STACK, CALL_AT + 8, 7), KEEP8(STACK, CALL_AT + 16, 7),
      KEEP8(STACK, CALL_AT + 24, 7), KEEP8(STACK, CALL_AT + 32, 7), KEEP8(STACK, CALL_AT + 40, 7),
      KEEP8(STACK, CALL_AT + 48, 7), KEEP8(STACK, CALL_AT + 56, 7), KEEP8(STACK, CALL_AT + 64, 7),
      KEEP8(STACK, CALL_AT + 72, 7),
      ADDRESS(16, to), ADDRESS(12, from),
      MOVE(1, 6), SET(2, 0), MOVE(3, STACK), ADD(3, HEADER_AT), SET(4, 20), CALL(LOAD_BYTES),
      IF_NOT(0, 0, REFUSE),
      LOAD1(4, STACK, HEADER_AT + 12), DOWN(4, 4), UP(4, 2), AND(4, 60), IF_UNDER(4, 20, REFUSE),
      MOVE(1, 6), SET(2, 0), MOVE(3, STACK), ADD(3, HEADER_AT), CALL(LOAD_BYTES),
      IF_NOT(0, 0, REFUSE),
      LOAD2(3, STACK, HEADER_AT), KEEP4(STACK, CALL_AT + (int)offsetof(struct call, from_port), 3),
      LOAD2(3, STACK, HEADER_AT + 2), BIG_ENDIAN2(3),
      KEEP4(STACK, CALL_AT + (int)offsetof(struct call, to_port), 3),
      MOVE(2, STACK), ADD(2, CALL_AT), SET(3, sizeof(struct call)), SET(4, 0), MAP(1, calls),
      CALL(SAY),
      LABEL(REFUSE), SET(0, 0), RETURN,
  };
  _Static_assert(sizeof(struct call) == 80, "all of it is written");
  return load(SOCKET_FILTER, NO_PLACE, code, LENGTH(code));
}

// A ping would be answered by this machine itself, and a datagram by nobody: whoever sends one hears
// that it may not, and QUIC gives way to TCP at once.
static bool load_filter(void) {
  struct instruction code[] = {
      LOAD4(2, 1, DATA), LOAD4(3, 1, DATA_END), MOVE(4, 2), ADD(4, 24), IF_MORE(4, 3, ALLOW),
      LOAD1(4, 2, 9), IF_IS(4, TCP, ALLOW), IF_NOT(4, UDP, REFUSE),
      LOAD2(4, 2, 22), IF_IS(4, __builtin_bswap16(NAMES_PORT), ALLOW),
      LABEL(REFUSE), LOAD1(4, 2, 0), AND(4, 0xf0), IF_NOT(4, 0x40, ALLOW),
      LOAD4(3, 2, 16), LOAD4(9, 2, 12), LOAD4(4, 1, DEVICE), IF_IS(4, LO, OVER_LO), SET(9, 0),
      LABEL(OVER_LO), UNLESS_OURS(ALLOW), SET(0, 0), RETURN,
      LABEL(ALLOW), SET(0, 1), RETURN,
  };
  return load_at(CGROUP, CGROUP_PACKETS, PLACE_EGRESS, code, LENGTH(code));
}

static bool map_ring(void) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  void *mine = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, calls, 0);
  void *theirs = mmap(NULL, page + 2 * RING_BYTES, PROT_READ, MAP_SHARED, calls, (off_t)page);
  if (mine == MAP_FAILED || theirs == MAP_FAILED) return false;
  consumed = mine, produced = theirs, ring = (const unsigned char *)theirs + page;
  return true;
}

int steer(const int given[SLOTS]) {
  sockets = make_map(SOCKETS, 4, 8, SLOTS, 0);
  verdicts = make_map(LRU_HASH, CALL_KEY, 8, MAX_VERDICTS, 0);
  calls = make_map(RING, 0, 0, RING_BYTES, 0);
  ranges_map = make_map(LONGEST_PREFIX, 8, 4, 2 * MAX_RANGES, NO_PREALLOCATION);
  if (sockets < 0 || verdicts < 0 || calls < 0 || ranges_map < 0 || !map_ring()) return -1;
  for (uint32_t slot = 0; slot < SLOTS; slot++) {
    uint64_t fd = (uint64_t)given[slot];
    if (!put(sockets, &slot, &fd)) return complain("socket"), -1;
  }
  int hold = load_hold();
  if (hold < 0 || setsockopt(given[HOLDING], SOL_SOCKET, SO_ATTACH_PROGRAM, &hold, sizeof hold))
    return complain("hold"), -1;
  return load_lookup() && load_filter() ? calls : -1;
}

static bool set_range(uint32_t address, uint8_t bits, enum whose whose) {
  uint32_t key[2] = {bits, htonl(address)}, value = whose;
  return put(ranges_map, key, &value);
}

// What was there before and is not named stays as it is, but not as ours.
bool set_ranges(const struct range *ranges, size_t count) {
  static struct range before[MAX_RANGES];
  static size_t before_count;
  for (size_t i = 0; i < before_count; i++) {
    uint32_t key[2] = {before[i].bits, htonl(before[i].address)};
    drop(ranges_map, key);
  }
  bool good = true;
  for (before_count = 0; before_count < count; before_count++) {
    before[before_count] = ranges[before_count];
    good &= set_range(ranges[before_count].address, ranges[before_count].bits,
                      ranges[before_count].whose);
  }
  return good && set_range(STANDINS, STANDIN_BITS, count > 0 ? OURS : NOT_OURS) &&
         set_range(OWN_ADDRESS, 32, NOT_OURS) &&
         set_range(INADDR_LOOPBACK & 0xff000000u, 8, NOT_OURS);
}

bool next_call(struct call *call) {
  unsigned long at = *consumed;
  if (at >= __atomic_load_n(produced, __ATOMIC_ACQUIRE)) return false;
  const uint32_t *head = (const void *)(ring + at % RING_BYTES);
  uint32_t size = __atomic_load_n(head, __ATOMIC_ACQUIRE);
  if (size >> 31) return false; // being written
  memcpy(call, head + 2, sizeof *call);
  __atomic_store_n(consumed, at + ((size & 0x3fffffffu) + 8 + 7) / 8 * 8, __ATOMIC_RELEASE);
  return true;
}

void set_verdict(const struct call *call, enum verdict verdict) {
  uint64_t value = ((uint64_t)(nanoseconds() + VERDICT_NS) & ~3ull) | verdict;
  put(verdicts, call, &value);
}
