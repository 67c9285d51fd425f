// SPDX-License-Identifier: Apache-2.0
// get_network_info: interfaces and their addresses, as the kernel lists them.
#include "facts.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_ADDRESSES 32 // of one interface
#define MAX_MAC 8        // bytes

static unsigned prefix(const void *mask, size_t size) {
  const unsigned char *byte = mask;
  unsigned bits = 0;
  for (size_t i = 0; i < size; i++) bits += (unsigned)__builtin_popcount(byte[i]);
  return bits;
}

// An IPv4 or IPv6 address as in CIDR notation, without a scope; false for other families.
static bool describe(const struct ifaddrs *entry, char *to, size_t size) {
  char address[INET6_ADDRSTRLEN];
  const void *data, *mask;
  size_t length;
  if (!entry->ifa_addr || !entry->ifa_netmask) return false;
  int family = entry->ifa_addr->sa_family;
  if (family == AF_INET) {
    data = &((const struct sockaddr_in *)entry->ifa_addr)->sin_addr;
    mask = &((const struct sockaddr_in *)entry->ifa_netmask)->sin_addr, length = 4;
  } else if (family == AF_INET6) {
    data = &((const struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr;
    mask = &((const struct sockaddr_in6 *)entry->ifa_netmask)->sin6_addr, length = 16;
  } else
    return false;
  if (!inet_ntop(family, data, address, sizeof address)) return false;
  snprintf(to, size, "%s/%u", address, prefix(mask, length));
  return true;
}

static void write_mac(const struct sockaddr_ll *link, char *to) {
  size_t length = link->sll_halen <= MAX_MAC ? link->sll_halen : 0;
  *to = 0;
  for (size_t i = 0; i < length; i++) to += sprintf(to, "%s%02x", i ? ":" : "", link->sll_addr[i]);
}

// The name without the label of an address, as in `eth0:1`.
static size_t name_length(const char *name) { return strcspn(name, ":"); }

static json_t *find(json_t *interfaces, const char *name, size_t length) {
  size_t i;
  json_t *interface;
  json_array_foreach(interfaces, i, interface) {
    json_t *known = json_object_get(interface, "name");
    if (json_string_length(known) == length && memcmp(json_string_value(known), name, length) == 0)
      return interface;
  }
  return NULL;
}

static unsigned mtu_of(int socket, const char *name, size_t length) {
  struct ifreq request = {0};
  if (length >= sizeof request.ifr_name) return 0;
  memcpy(request.ifr_name, name, length);
  return ioctl(socket, SIOCGIFMTU, &request) || request.ifr_mtu < 0 ? 0 : (unsigned)request.ifr_mtu;
}

// The interface of the entry, which is new to the list unless it is there; NULL if that is full.
static json_t *interface_of(json_t *interfaces, const struct ifaddrs *entry, int socket) {
  size_t length = name_length(entry->ifa_name);
  json_t *interface = find(interfaces, entry->ifa_name, length);
  if (interface) return interface;
  bool is_up = entry->ifa_flags & IFF_UP && entry->ifa_flags & IFF_RUNNING;
  interface = json_pack("{s:o, s:s, s:o, s:b, s:[]}", "name", text(entry->ifa_name, length, MAX_NAME),
                        "mac", "", "mtu", number(mtu_of(socket, entry->ifa_name, length)), "is_up",
                        is_up, "addresses");
  return listed(interfaces, interface, MAX_LISTED) ? interface : NULL;
}

// Add what the entry says of its interface; false if there is no room for it.
static bool add(json_t *interfaces, const struct ifaddrs *entry, int socket) {
  char address[INET6_ADDRSTRLEN + 8], mac[MAX_MAC * 3 + 1];
  json_t *interface = interface_of(interfaces, entry, socket);
  if (!interface) return false;
  if (entry->ifa_addr && entry->ifa_addr->sa_family == AF_PACKET) {
    write_mac((const struct sockaddr_ll *)entry->ifa_addr, mac);
    json_object_set_new(interface, "mac", json_string(mac));
  }
  if (!describe(entry, address, sizeof address)) return true;
  return listed(json_object_get(interface, "addresses"), json_string(address), MAX_ADDRESSES);
}

json_t *get_network_info(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  struct ifaddrs *entries;
  if (getifaddrs(&entries)) return refuse_errno("the network interfaces");
  int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); // each takes the questions of interfaces
  json_t *interfaces = json_array();
  bool is_cut = false;
  for (const struct ifaddrs *entry = entries; entry; entry = entry->ifa_next)
    if (!add(interfaces, entry, any)) is_cut = true;
  close(any);
  freeifaddrs(entries);
  return json_pack("{s:o, s:b}", "interfaces", interfaces, "truncated", is_cut);
}
