// SPDX-License-Identifier: Apache-2.0
// Names, the addresses that stand for them, and what the host last said of them. Programs keep
// addresses: the table lies in a file, for the process after this one, and an address is given to a
// second name only after all others have been; until then it is nobody's, and refused.
#include "reach.h"
#include "waggle.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_STANDINS 8192u // names at a time; of the names before, nobody knows the address any more
#define BUCKETS 4096u
#define MAX_ANSWERS 1024u

static struct table {
  uint32_t given; // so far
  struct standin {
    uint32_t address;
    char name[MAX_NAME + 1];
  } standins[MAX_STANDINS];
} *table;
static uint16_t next[MAX_STANDINS], buckets[BUCKETS]; // one more than the index; 0: the end
static struct {
  char name[MAX_NAME + 1];
  enum answer answer;
  long long until;
} answers[MAX_ANSWERS];

static uint32_t hash(const char *name) {
  uint32_t sum = 2166136261u;
  for (; *name; name++) sum = (sum ^ (unsigned char)*name) * 16777619u;
  return sum ^ sum >> 15;
}

static void enlist(uint32_t index) {
  uint16_t *bucket = &buckets[hash(table->standins[index].name) % BUCKETS];
  next[index] = *bucket;
  *bucket = (uint16_t)(index + 1);
}

static void remove_from_list(uint32_t index) {
  uint16_t *at = &buckets[hash(table->standins[index].name) % BUCKETS];
  while (*at && *at != index + 1) at = &next[*at - 1];
  if (*at) *at = next[index];
}

bool open_names(void) {
  int fd = open(NAMES_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  bool good = fd >= 0 && ftruncate(fd, sizeof *table) == 0;
  table = good ? mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (fd >= 0) close(fd);
  if (table == MAP_FAILED) return complain(NAMES_FILE), false;
  uint32_t last = table->given < MAX_STANDINS ? table->given : MAX_STANDINS;
  for (uint32_t i = 0; i < last; i++) {
    table->standins[i].name[MAX_NAME] = 0;
    if (table->standins[i].address) enlist(i);
  }
  return true;
}

uint32_t standin_for(const char *name) {
  for (uint16_t at = buckets[hash(name) % BUCKETS]; at; at = next[at - 1])
    if (!strcmp(table->standins[at - 1].name, name)) return table->standins[at - 1].address;
  uint32_t index = table->given % MAX_STANDINS;
  struct standin *standin = &table->standins[index];
  if (standin->address) remove_from_list(index);
  standin->address = 0; // nobody's, should this process end before the name is there
  strcpy(standin->name, name);
  uint32_t address = FIRST_STANDIN + table->given % (STANDIN_COUNT / MAX_STANDINS * MAX_STANDINS);
  table->given++;
  enlist(index);
  return standin->address = address;
}

const char *name_of(uint32_t address) {
  uint32_t index = (address - FIRST_STANDIN) % MAX_STANDINS;
  return address >= FIRST_STANDIN && table->standins[index].address == address
             ? table->standins[index].name
             : NULL;
}

enum answer known(const char *name, unsigned *ttl) {
  uint32_t index = hash(name) % MAX_ANSWERS;
  long long left = answers[index].until - milliseconds();
  if (left <= 0 || strcmp(answers[index].name, name)) return UNKNOWN;
  *ttl = (unsigned)(left + 999) / 1000;
  return answers[index].answer;
}

void learn(const char *name, enum answer answer, unsigned ttl) {
  uint32_t index = hash(name) % MAX_ANSWERS;
  strcpy(answers[index].name, name);
  answers[index].answer = answer;
  answers[index].until = milliseconds() + 1000ll * ttl;
}

void forget_answers(void) { memset(answers, 0, sizeof answers); }
