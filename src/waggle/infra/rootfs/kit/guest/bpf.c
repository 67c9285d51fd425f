// SPDX-License-Identifier: Apache-2.0
// Maps and programs of the kernel's BPF machine; see bpf.h.
#include "bpf.h"
#include "waggle.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAP_CREATE = 0, MAP_UPDATE = 2, MAP_DELETE = 3, PROGRAM_LOAD = 5, LINK_CREATE = 28 };
#define MAX_LABELS 32

// From linux/bpf.h.
union attributes {
  struct {
    uint32_t type, key, value, entries, flags;
  } map;
  struct {
    uint32_t map, padding;
    uint64_t key, value, flags;
  } element;
  struct {
    uint32_t type, count;
    uint64_t code, license;
    uint32_t log_level, log_size;
    uint64_t log;
    uint32_t version, flags;
    char name[16];
    uint32_t interface, place;
  } program;
  struct {
    uint32_t program, target, place, flags;
  } link;
  char all[128];
};

static long bpf(int command, union attributes *attributes) {
  return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

int make_map(enum map_type type, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags) {
  union attributes map = {.map = {type, key, value, entries, flags}};
  int fd = (int)bpf(MAP_CREATE, &map);
  if (fd < 0) complain("map");
  return fd;
}

bool put(int map, const void *key, const void *value) {
  union attributes element = {.element = {(uint32_t)map, 0, (uintptr_t)key, (uintptr_t)value, 0}};
  return bpf(MAP_UPDATE, &element) == 0;
}

bool drop(int map, const void *key) {
  union attributes element = {.element = {(uint32_t)map, 0, (uintptr_t)key, 0, 0}};
  return bpf(MAP_DELETE, &element) == 0;
}

static bool is_jump(const struct instruction *at) {
  int kind = at->code & 7, operation = at->code & 0xf0;
  return kind == 5 && operation != 0x80 && operation != 0x90;
}

// Remove labels, and have jumps say how far they go; the count that is left.
static size_t resolve(struct instruction *code, size_t count) {
  size_t places[MAX_LABELS] = {0}, kept = 0;
  for (size_t i = 0; i < count; i++) {
    bool is_label = code[i].code == 0 && code[i].jump >= FIRST_LABEL;
    if (is_label) places[code[i].jump - FIRST_LABEL] = kept;
    else code[kept++] = code[i];
  }
  for (size_t i = 0; i < kept; i++)
    if (is_jump(&code[i]))
      code[i].jump = (int16_t)(places[code[i].jump - FIRST_LABEL] - i - 1);
  return kept;
}

int load(enum program_type type, enum place place, struct instruction *code, size_t count) {
  static char log[1 << 16];
  union attributes made = {.program = {.type = type,
                                       .count = (uint32_t)resolve(code, count),
                                       .code = (uintptr_t)code,
                                       .license = (uintptr_t) "Apache-2.0",
                                       .log_level = 1,
                                       .log_size = sizeof log,
                                       .log = (uintptr_t)log,
                                       .name = "waggle",
                                       .place = place}};
  int program = (int)bpf(PROGRAM_LOAD, &made);
  if (program >= 0) return program;
  complain("program");
  if (getenv("REACH_LOG")) write_exactly(2, log, strlen(log));
  return -1;
}

bool load_at(const char *path, enum program_type type, enum place place, struct instruction *code,
             size_t count) {
  int program = load(type, place, code, count);
  int target = program < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  union attributes link = {.link = {(uint32_t)program, (uint32_t)target, place, 0}};
  bool good = target >= 0 && bpf(LINK_CREATE, &link) >= 0;
  if (program >= 0 && !good) complain(path);
  if (target >= 0) close(target);
  if (program >= 0) close(program);
  return good;
}
