// SPDX-License-Identifier: Apache-2.0
// Packets with any source: the answers of a name server that stands at every address, and the first
// packet of a connection, which was kept until it was judged (steer.c).
#include "reach.h"
#include "waggle.h"

#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_PAYLOAD (sizeof(struct udphdr) + MAX_ANSWER)

static int raw = -1;

bool open_packets(void) {
  raw = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
  return raw >= 0 || (complain("packets"), false);
}

static void send_packet(uint32_t from, uint32_t to, uint8_t protocol, const void *payload, size_t size) {
  struct {
    struct iphdr ip; // the kernel fills in what is not here
    unsigned char payload[MAX_PAYLOAD];
  } packet = {.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = protocol}};
  packet.ip.saddr = from, packet.ip.daddr = to;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {to}};
  memcpy(packet.payload, payload, size);
  sendto(raw, &packet, sizeof packet.ip + size, MSG_NOSIGNAL, (void *)&address, sizeof address);
}

void send_datagram(const struct sockaddr_in *from, const struct sockaddr_in *to, const void *data,
                   size_t size) {
  struct {
    struct udphdr udp; // without a checksum: it goes nowhere
    unsigned char data[MAX_ANSWER];
  } datagram = {.udp = {.uh_sport = from->sin_port, .uh_dport = to->sin_port}};
  datagram.udp.uh_ulen = htons((uint16_t)(sizeof datagram.udp + size));
  memcpy(datagram.data, data, size);
  send_packet(from->sin_addr.s_addr, to->sin_addr.s_addr, IPPROTO_UDP, &datagram,
              sizeof datagram.udp + size);
}

static uint32_t sum_of(const void *data, size_t size) {
  const unsigned char *at = data;
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < size; i += 2) sum += (uint32_t)at[i] << 8 | at[i + 1];
  return sum;
}

void send_again(const struct call *call) {
  struct tcphdr tcp;
  unsigned char header[sizeof call->header];
  memcpy(&tcp, call->header, sizeof tcp);
  size_t size = (size_t)tcp.doff * 4;
  if (size < sizeof tcp || size > sizeof header) return;
  memcpy(header, call->header, size);
  memset(header + offsetof(struct tcphdr, check), 0, sizeof tcp.check);
  uint32_t sum = sum_of(&call->to, sizeof call->to) + sum_of(&call->from, sizeof call->from) +
                 IPPROTO_TCP + (uint32_t)size + sum_of(header, size);
  sum = (sum & 0xffff) + (sum >> 16);
  uint16_t check = htons((uint16_t)~(sum + (sum >> 16)));
  memcpy(header + offsetof(struct tcphdr, check), &check, sizeof check);
  send_packet(call->from, call->to, IPPROTO_TCP, header, size);
}
