// SPDX-License-Identifier: Apache-2.0
// The parts of `reach`, which gives programs a network without their knowing of the proxy. One
// process, one loop (reach.c): names are answered with addresses that stand for them (name_server.c,
// questions.c, dns.c, names.c, asking.c), the kernel gives every connection to a far address to this
// program (ways.c, steer.c, packets.c), which has the host's proxy judge it before it accepts, and
// carries it (relay.c, proxy.c, pump.c).
// All programs of the guest may call it as they like: every table and buffer has an end.
#ifndef REACH_H
#define REACH_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Addresses are numbers in the host's order unless a comment says otherwise.
#define STANDINS 0xc6120000u // 198.18.0.0/15, which no network uses
#define STANDIN_BITS 15
#define OWN_ADDRESS (STANDINS + 1)  // this machine's own, on lo
#define NAME_SERVER (STANDINS + 2)  // what resolv.conf names (hosts.c)
#define FIRST_STANDIN (STANDINS + 256)
#define STANDIN_COUNT ((1u << (32 - STANDIN_BITS)) - 512)
#define PROXY_PORT 3128

#define MAX_NAME 253 // of a name with its dots
#define NETWORK_RECORD "/run/identity/network"
#ifndef NAMES_FILE
#define NAMES_FILE "/run/names"
#endif
#define MAX_RANGES 64

// reach.c: what is waited for. `ready` may close the descriptor; nothing of it is used afterwards.
struct watched {
  int fd;
  void (*ready)(struct watched *watched, uint32_t events);
  uint32_t armed;
};
// Also to change what is waited for; while that is nothing, it is not told of its end either.
bool watch(struct watched *watched, uint32_t events);
void forget(struct watched *watched);                 // close it; a descriptor of -1 will do

// ranges.c: what the host's record says: a range a word, with '-' before what is not for us, and '~'
// before what lies in a range of ours, and where networks of this machine may be, as those of
// containers: it is ours where this machine has no way of its own.
enum whose { NOT_OURS, OURS, SPARE };
struct range {
  uint32_t address;
  uint8_t bits;
  enum whose whose;
};
size_t read_ranges(const char *text, struct range ranges[MAX_RANGES]);

// ways.c: have the kernel deliver what goes to these ranges to this machine. With no ranges there is
// no way out at all. Whatever an earlier process set is replaced.
bool set_ways(const struct range *ranges, size_t count);

// steer.c: a connection that someone wants; `to`, `from` and `from_port` are in network order.
struct call {
  uint32_t to, from;
  uint32_t to_port, from_port;
  unsigned char header[64]; // TCP's, of its first packet
};
#define CALL_KEY offsetof(struct call, header) // what distinguishes calls
enum verdict { WELCOME = 1, REFUSED };
enum slot { ACCEPTING, HOLDING, NAMES_TCP, NAMES_UDP, SLOTS };
// Give these sockets what is for them; the descriptor of new calls, or -1. Until this process ends.
int steer(const int sockets[SLOTS]);
bool set_ranges(const struct range *ranges, size_t count);
bool next_call(struct call *call);
void set_verdict(const struct call *call, enum verdict verdict); // of its next packet

// packets.c: packets that come from others, or seem to. Addresses and ports are in network order.
bool open_packets(void);
void send_datagram(const struct sockaddr_in *from, const struct sockaddr_in *to, const void *data,
                   size_t size);
void send_again(const struct call *call);

// names.c: the names and what stands for them, which outlive this process. NULL: nobody's address.
bool open_names(void);
uint32_t standin_for(const char *name);
const char *name_of(uint32_t address);

enum answer { UNKNOWN, FOUND, NO_ADDRESS, NOTHING, FAILED }; // what the host says of a name
enum answer known(const char *name, unsigned *ttl);
void learn(const char *name, enum answer answer, unsigned ttl);
void forget_answers(void);

// asking.c: ask the host about a name; questions.c hears the answer by `answered`. No answer to what
// is asked of a connection that breaks: it is asked again over the next one.
void ask(const char *name);
void answered(const char *name, enum answer answer, unsigned ttl);
void look_after_asking(void);
void hang_up_asking(void);

// proxy.c: a connection to the proxy, which was opened just now or kept ready; -1 and errno.
int call_proxy(void);
void keep_one_ready(void);
void drop_ready_one(void);
// Send `CONNECT host:port`: 1 when it is sent, 0 when it is too early, -1 when it never will be.
int send_request(int proxy, const char *host, unsigned port);
// Read its answer and nothing behind it: the status, 0 when it is not there yet, -1 when none comes.
int read_status(int proxy);

// dns.c
#define MAX_QUESTION 512
#define MAX_ANSWER 1024
enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_OPT = 41, TYPE_ANY = 255 };
enum { NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, NOT_ALLOWED };
struct question {
  char name[MAX_NAME + 1]; // in lower case
  unsigned type;
  size_t end;      // of the question in the message
  bool is_plain;   // a name that a server could know
  bool has_option; // EDNS
  int code;        // what is wrong with it
};
// Read a message; false when it is no question, which gets no answer.
bool read_question(const unsigned char *message, size_t size, struct question *question);
// Make its answer in OUT: an error, an address (0: none), or a name; the size.
size_t write_answer(const unsigned char *message, const struct question *question, int code,
                    uint32_t address, const char *name, unsigned ttl,
                    unsigned char out[MAX_ANSWER]);
// The address that a name of in-addr.arpa means; false when it means none.
bool address_in(const char *name, uint32_t *address);

// questions.c: answer a question, now or when the host has. DATA of an answer begins with two bytes
// for its size.
struct caller;
struct origin {
  struct caller *caller;   // by TCP; else
  struct sockaddr_in from; // in network order
  struct in_addr to;
};
void take_question(const struct origin *origin, const unsigned char *data, size_t size);
void forget_caller(const struct caller *caller);

// name_server.c
bool open_name_server(int *udp, int *tcp);
void send_answer(const struct origin *origin, unsigned char *data, size_t size);
void look_after_callers(void);

// relay.c
bool open_relays(int *accepting, int *holding);
void take_calls(void);
void look_after_relays(void);

// trust.c: what was allowed just now
void trust(const struct call *call);
bool is_trusted(const struct call *call);
void distrust(const struct call *call);
void trust_nobody(void);

// pump.c: the two ends of a connection that is let through.
enum way { FLOWING, BLOCKED, CLOSED };
struct pair {
  struct watched client, proxy;
  enum way up, down; // to the proxy, and to the client
};
// Carry what can be now that EVENTS have happened to one of them, without a store: what one does not
// take waits in the other. False when both ways are closed, or one end broke off: IS_BROKEN tells.
bool carry(struct pair *pair, struct watched *ready, uint32_t events, bool *is_broken);
// Close both; a broken one is broken for the others, too.
void part(struct pair *pair, bool is_broken);

// reach.c: when something has to be done next, though nothing happens.
void due_at(long long when);
// A socket of this process's own address for what it is given of others' (IP_TRANSPARENT).
int open_listener(int type, uint16_t port, int backlog);

#endif
