// SPDX-License-Identifier: Apache-2.0
// The system call bpf(2) and the instructions of its machine, as far as steer.c needs them: the
// compiler here has no headers of the kernel's.
#ifndef BPF_H
#define BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct instruction {
  uint8_t code, registers;
  int16_t jump;
  int32_t value;
};
#define OP(code, to, from, jump, value) {(code), (uint8_t)((to) | (from) << 4), (jump), (value)}
#define MOVE(to, from) OP(0xbf, to, from, 0, 0)
#define SET(to, value) OP(0xb7, to, 0, 0, value)
#define SET64(to, value) OP(0x18, to, 0, 0, (int32_t)(value)), {0, 0, 0, (int32_t)((value) >> 32)}
#define ADD(to, value) OP(0x07, to, 0, 0, value)
#define ADD_REGISTER(to, from) OP(0x0f, to, from, 0, 0)
#define AND(to, value) OP(0x57, to, 0, 0, value)
#define UP(to, bits) OP(0x67, to, 0, 0, bits)
#define DOWN(to, bits) OP(0x77, to, 0, 0, bits)
#define BIG_ENDIAN2(to) OP(0xdc, to, 0, 0, 16)
#define KEEP1(to, at, from) OP(0x73, to, from, at, 0)
#define LOAD1(to, from, at) OP(0x71, to, from, at, 0)
#define LOAD2(to, from, at) OP(0x69, to, from, at, 0)
#define LOAD4(to, from, at) OP(0x61, to, from, at, 0)
#define LOAD8(to, from, at) OP(0x79, to, from, at, 0)
#define KEEP4(to, at, from) OP(0x63, to, from, at, 0)
#define KEEP8(to, at, from) OP(0x7b, to, from, at, 0)
#define KEEP_VALUE(to, at, value) OP(0x62, to, 0, at, value)
#define IF_IS(left, value, label) OP(0x15, left, 0, label, value)
#define IF_NOT(left, value, label) OP(0x55, left, 0, label, value)
#define IF_LESS(left, right, label) OP(0xad, left, right, label, 0) // unsigned
#define IF_MORE(left, right, label) OP(0x2d, left, right, label, 0)
#define IF_UNDER(left, value, label) OP(0xa5, left, 0, label, value)
#define GO(label) OP(0x05, 0, 0, label, 0)
#define MAP(to, fd) OP(0x18, to, 1, 0, fd), {0, 0, 0, 0}
#define CALL(function) OP(0x85, 0, 0, 0, function)
#define RETURN OP(0x95, 0, 0, 0, 0)
#define STACK 10
// A jump names a label, and a label stands before an instruction; `load` resolves and removes them.
#define LABEL(name) OP(0, 0, 0, name, 0)
#define FIRST_LABEL 1000

// Functions of the kernel's.
enum {
  FIND = 1,
  PUT = 2,
  DELETE = 3,
  NOW = 5,
  LOAD_BYTES = 26,
  LOAD_FROM = 68,
  RELEASE = 86,
  ASSIGN = 124,
  SAY = 130,
};

enum map_type { LRU_HASH = 9, LONGEST_PREFIX = 11, SOCKETS = 15, RING = 27 };
enum program_type { SOCKET_FILTER = 1, CGROUP_PACKETS = 8, SOCKET_LOOKUP = 30 };
enum place { NO_PLACE = 0, PLACE_EGRESS = 1, PLACE_LOOKUP = 36 };
#define HEADER_OF_NETWORK 1
#define NO_PREALLOCATION 1u
#define ANY_VALUE 0

int make_map(enum map_type type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags);
bool put(int map, const void *key, const void *value);
bool drop(int map, const void *key);
// Load a program, which ends with this process or what it is attached to; -1 and a complaint.
int load(enum program_type type, enum place place, struct instruction *code, size_t count);
// Load one and attach it to what PATH names.
bool load_at(const char *path, enum program_type type, enum place place, struct instruction *code,
             size_t count);

#endif
