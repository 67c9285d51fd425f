// SPDX-License-Identifier: Apache-2.0
// What a job prints, as frames on stdout, from any place on and as often as the host wants:
//   KIND u32 SIZE (big endian), and SIZE bytes. Kinds: o, e, d, a piece of stdout, stderr or the
//   displays; O, E, D, a decimal offset: what comes next of that stream is from there, since what
//   was before is not kept; s, the job has started; x, its end, in lines:
//   "exit N", "signal N" or "lost"; "elapsed NANOSECONDS"; what it has left (left.c)
#include "job.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE (32u << 10)
#define AGAIN_MS 100
#define LET_IN_MS 1000
#define START_TRIES 100

static void say(char kind, const char *data, size_t size) {
  static struct __attribute__((packed)) {
    char kind;
    uint32_t size;
    char data[PIECE];
  } frame;
  frame.kind = kind, frame.size = htonl((uint32_t)size);
  memcpy(frame.data, data, size);
  if (!write_exactly(1, &frame, sizeof frame - PIECE + size)) exit(FAILED);
}

static void say_end(const struct job_state *state) {
  static char text[MAX_LEFT + 100];
  int status = state->status;
  bool is_known = state->stage == ENDED;
  int at = !is_known              ? sprintf(text, "lost\n")
           : WIFSIGNALED(status) ? sprintf(text, "signal %d\n", WTERMSIG(status))
                                  : sprintf(text, "exit %d\n", WEXITSTATUS(status));
  at += sprintf(text + at, "elapsed %lld\n", (long long)elapsed(state));
  const char *left = is_known ? state->left : "all 0\n";
  at += snprintf(text + at, sizeof text - (size_t)at, "%.*s", MAX_LEFT, left);
  say('x', text, (size_t)at);
}

static int follow_shim(const char *id) {
  int shim = connect_shim(id);
  if (shim >= 0) send(shim, (char[2]){FOLLOW}, 2, MSG_NOSIGNAL);
  return shim;
}

// Pass on one piece of each stream; whether there was any.
static bool pass_on(const struct job_state *state, uint64_t offsets[JOB_STREAMS]) {
  static char data[PIECE];
  bool any = false;
  for (int i = 0; i < JOB_STREAMS; i++) {
    uint64_t from = offsets[i];
    ssize_t size = read_spool(i, &state->spools[i], &offsets[i], data, sizeof data);
    uint64_t begins = offsets[i] - (uint64_t)size;
    if (begins != from) {
      char text[24];
      say("OED"[i], text, (size_t)sprintf(text, "%llu", (unsigned long long)begins));
    }
    if (size > 0) say("oed"[i], data, (size_t)size);
    any |= size > 0;
  }
  return any;
}

// Until there may be more; false when the job has ended, or is lost. A shim that has no place for
// one more notifies it of nothing yet.
static bool wait_for_more(const char *id, int *shim) {
  static bool is_let_in;
  char bytes[64];
  struct pollfd waits[] = {{.fd = 1}, {.fd = *shim, .events = POLLIN}};
  int ready = poll(waits, 2, *shim < 0 ? AGAIN_MS : is_let_in ? -1 : LET_IN_MS);
  if (ready < 0) return errno == EINTR;
  if (waits[0].revents) exit(FAILED); // nobody reads any more
  if (*shim >= 0 && (!ready || recv(*shim, bytes, sizeof bytes, 0) > 0)) return is_let_in |= ready, true;
  if (*shim >= 0) close(*shim);
  if (!is_running(id)) return false;
  *shim = follow_shim(id);
  return true;
}

int follow_from(const char *id, uint64_t offsets[JOB_STREAMS]) {
  struct job_state *state = map_state(id);
  for (int tries = 0; state && state->stage == STARTING && tries < START_TRIES && is_running(id);
       tries++)
    nanosleep(&(struct timespec){.tv_nsec = AGAIN_MS * 1000000}, NULL); // a start has come before
  if (!state || !read_spools(id)) errno = ESRCH, fail(id);
  int shim = follow_shim(id);
  say('s', "", 0);
  for (bool is_last = false;;) {
    if (pass_on(state, offsets)) continue;
    if (is_last) break;
    is_last = state->stage == ENDED || !wait_for_more(id, &shim);
  }
  say_end(state);
  return 0;
}

int follow_job(const char *words) {
  char id[ID_LENGTH + 1];
  unsigned long long from[JOB_STREAMS];
  uint64_t offsets[JOB_STREAMS];
  enter_image();
  if (sscanf(words, "%36s %llu %llu %llu", id, &from[0], &from[1], &from[2]) != 4)
    errno = EINVAL, fail("follow");
  for (int i = 0; i < JOB_STREAMS; i++) offsets[i] = from[i];
  return follow_from(id, offsets);
}
