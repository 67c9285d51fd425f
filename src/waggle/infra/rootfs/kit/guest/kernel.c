// SPDX-License-Identifier: Apache-2.0
// What the kernel complains of, for a machine whose kernel has no console of its own: errors and
// worse, as it would print them there, at a bounded rate. They wait in the kernel's own buffer.
#include "channels.h"
#include "waggle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORST 3     // KERN_ERR of the kernel itself: what programs write there has another number
#define RECORDS 1000 // to read in a second
#define LINES 20     // to show in a second
#define MAX_RECORD 8192
#define SHOWN 200
#define EXPECTED "Warning: unable to open an initial console"

static int records = -1, read_now, shown_now;
static time_t second;

void open_kernel_messages(void) { records = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC); }

static bool may_read(void) {
  time_t now = seconds();
  if (now != second) second = now, read_now = shown_now = 0;
  return records >= 0 && read_now < RECORDS && shown_now < LINES;
}

bool watch_kernel(struct pollfd *at) {
  bool may = may_read();
  *at = (struct pollfd){.fd = may ? records : -1, .events = POLLIN};
  return records >= 0 && !may;
}

// "LEVEL,NUMBER,MICROSECONDS,FLAGS;TEXT", and a line for each other thing that is known of it.
static void show(const char *record) {
  unsigned level;
  unsigned long long at;
  const char *text = strchr(record, ';');
  if (!text || sscanf(record, "%u,%*u,%llu,", &level, &at) != 2 || level > WORST) return;
  if (strncmp(++text, EXPECTED, strlen(EXPECTED)) == 0) return;
  int size = (int)strcspn(text, "\n");
  dprintf(2, "[%5llu.%06llu] %.*s\n", at / 1000000, at % 1000000, size < SHOWN ? size : SHOWN, text);
  shown_now++;
}

void show_kernel_messages(void) {
  static char record[MAX_RECORD + 1];
  while (may_read()) {
    ssize_t size = read(records, record, MAX_RECORD);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0 && errno != EPIPE) return (void)close(records), (void)(records = -1);
    read_now++; // EPIPE: some were lost
    if (size > 0) record[size] = 0, show(record);
  }
}
