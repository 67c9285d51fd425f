// SPDX-License-Identifier: Apache-2.0
// What a job prints, kept within bounds: the beginning, up to as much as the host wants, and END
// bytes of the end. The first START bytes and the end are in memory, so that a full disk takes no
// error message with it. Displays are records: of these only the beginning is of use.
#include "job.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define START (64u << 10)
#define END (128u << 10)
#define PIECE (16u << 10) // bytes of one write: the ring's oldest may be changing
#define RING (END + PIECE)

static struct {
  int near, far; // -1 while there is none
  uint64_t keep;
  struct spool *spool;
  char path[MAX_JOB_PATH]; // of the far one
} spools[JOB_STREAMS];

static void far_path(char path[MAX_JOB_PATH], const char *id, int stream) {
  snprintf(path, MAX_JOB_PATH, FAR "/%.36s.%d", id, stream);
}

bool open_spool(int stream, const char *id, struct spool *spool, uint64_t keep) {
  char path[MAX_JOB_PATH], name[2] = {(char)('0' + stream), 0};
  job_path(path, id, name);
  far_path(spools[stream].path, id, stream);
  spools[stream].near = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  spools[stream].far = -1;
  spools[stream].keep = keep;
  spools[stream].spool = spool;
  return spools[stream].near >= 0;
}

static bool write_at(int fd, const char *data, size_t size, uint64_t at) {
  while (size > 0) {
    ssize_t n = pwrite(fd, data, size, (off_t)at);
    if (n <= 0) return false;
    data += n, size -= (size_t)n, at += (uint64_t)n;
  }
  return true;
}

static size_t least(uint64_t a, uint64_t b) { return (size_t)(a < b ? a : b); }

// Return how many bytes of a piece the beginning took; it ends when the disk is full.
static size_t keep_beginning(int stream, const char *data, size_t size, uint64_t total) {
  uint64_t kept = spools[stream].spool->kept;
  if (kept != total || kept >= spools[stream].keep) return 0;
  bool is_near = kept < START;
  size = least(size, (is_near ? least(START, spools[stream].keep) : spools[stream].keep) - kept);
  if (!is_near && spools[stream].far < 0)
    spools[stream].far = open(spools[stream].path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (!write_at(is_near ? spools[stream].near : spools[stream].far, data, size,
                is_near ? kept : kept - START))
    return spools[stream].keep = kept, 0;
  spools[stream].spool->kept = kept + size;
  return size;
}

void feed_spool(int stream, const char *data, size_t size) {
  struct spool *spool = spools[stream].spool;
  while (size > 0) {
    uint64_t total = spool->total;
    size_t taken = keep_beginning(stream, data, least(size, PIECE), total);
    if (taken == 0) {
      taken = least(size, least(PIECE, RING - total % RING));
      if (stream == DISPLAYS || !write_at(spools[stream].near, data, taken, START + total % RING))
        spool->begin = total + taken;
    }
    spool->total = total + taken;
    data += taken, size -= taken;
  }
}

bool read_spools(const char *id) {
  for (int i = 0; i < JOB_STREAMS; i++) {
    char path[MAX_JOB_PATH], name[2] = {(char)('0' + i), 0};
    job_path(path, id, name);
    far_path(spools[i].path, id, i);
    spools[i].near = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // root may have put a pipe there
    spools[i].far = -1;
  }
  return spools[STDOUT].near >= 0 && spools[STDERR].near >= 0;
}

static ssize_t read_beginning(int stream, uint64_t kept, uint64_t offset, char *data, size_t size) {
  size = least(size, kept - offset);
  if (offset < START)
    return pread(spools[stream].near, data, least(size, START - offset), (off_t)offset);
  if (spools[stream].far < 0) spools[stream].far = open(spools[stream].path, O_RDONLY | O_CLOEXEC);
  return pread(spools[stream].far, data, size, (off_t)(offset - START));
}

// The first byte of the end that is surely there, also while the shim writes its next piece.
static uint64_t end_begins(const struct spool *spool, uint64_t total) {
  uint64_t begin = total > END ? total - END : 0, kept = spool->kept;
  if (begin < spool->begin) begin = spool->begin;
  return begin < kept ? kept : begin;
}

ssize_t read_spool(int stream, const struct spool *spool, uint64_t *offset, char *data, size_t size) {
  for (;;) {
    uint64_t total = spool->total, kept = spool->kept; // a total is never ahead of what it counts
    if (*offset >= total) return 0;
    if (*offset < kept) {
      ssize_t n = read_beginning(stream, kept, *offset, data, size);
      if (n > 0) return *offset += (uint64_t)n, n;
      *offset = kept; // root in this machine took it away
      continue;
    }
    uint64_t begin = end_begins(spool, total);
    if (*offset < begin) *offset = begin;
    if (*offset >= total) return 0;
    size_t length = least(least(size, total - *offset), RING - *offset % RING);
    ssize_t n = pread(spools[stream].near, data, length, (off_t)(START + *offset % RING));
    if (n <= 0) return *offset = total, 0;
    if (*offset >= end_begins(spool, spool->total)) return *offset += (uint64_t)n, n;
  }
}
