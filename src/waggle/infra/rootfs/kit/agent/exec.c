// SPDX-License-Identifier: Apache-2.0
// The life of one program, in a process of its own, which answers the requests for it: exec_command,
// then get_process and kill_process, which the first process passes on over a socket. It is there
// until that ends: the first process knows whether anybody has heard how the program ended.
#include "exec.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ll
#define KILLS 12              // tries of some seconds each to end what does not
#define DRAIN_READS 64        // of what a program that has ended left in its pipes
#define PAUSE_NS 10000000ll   // between reads of output that is only counted: 6 MB a second are enough

enum end { RUNNING, EXITED, SIGNALED, ENDED_LATE, KILLED };
static const char *const STATUS[] = {"running", "exited", "signaled", "timed_out", "killed"};

static struct {
  int number;
  const char *first; // the id of exec_command, until it is answered
  bool waits;        // it is answered at the end
  pid_t pid;
  int fds[POLLED];    // -1: closed
  bool has_survivors; // of kill_tree: once this process ends, nobody finds them any more
  enum end end;
  int status; // of waitpid(2)
  int64_t started, ended, deadline, paused_until;
  size_t most, used[2];
  int64_t total[2];
} run;
static struct start start;
static char kept[2][MAX_READ], counted[65536];

__attribute__((noreturn)) static void leave(void) {
  bool is_over = run.pid <= 0 || (run.end != RUNNING && !run.has_survivors);
  for (int i = 0; !is_over && i < KILLS; i++) is_over = kill_tree(run.pid, &run.status);
  _exit(0);
}

static void forget(int which) {
  if (run.fds[which] >= 0) close(run.fds[which]);
  run.fds[which] = -1;
}

// Answer with what is known now.
static void answer(const char *id) {
  bool has_exited = run.end == EXITED, was_killed = run.end != RUNNING && !has_exited;
  int64_t until = run.end == RUNNING ? monotonic() : run.ended;
  int number = WIFSIGNALED(run.status) ? WTERMSIG(run.status) : SIGKILL;
  json_t *result = json_pack("{s:i,s:s,s:o,s:o,s:f,s:I,s:I}", "process", run.number, "status",
                             STATUS[run.end], "exit_code",
                             has_exited ? json_integer(WEXITSTATUS(run.status)) : json_null(), "signal",
                             was_killed ? json_integer(number) : json_null(), "seconds",
                             (double)(until - run.started) / SECOND, "stdout_bytes",
                             (json_int_t)run.total[0], "stderr_bytes", (json_int_t)run.total[1]);
  const struct bytes bytes[MAX_BYTES] = {{"stdout", kept[0], run.used[0]},
                                         {"stderr", kept[1], run.used[1]}};
  if (!result) refuse(INTERNAL_ERROR, NULL, NULL, "out of memory");
  if (!(result ? send_result(run.fds[SOCKET], id, result, bytes) : send_refusal(run.fds[SOCKET], id)))
    leave();
}

// Answer exec_command. Whoever does not wait is told that it runs, and finds the rest by get_process.
static void answer_first(void) {
  if (run.first) answer(run.first);
  run.first = NULL;
}

// Read some output: false if there is none now. Its end closes it.
static bool read_output(int which) {
  int stream = which - OUTPUT;
  size_t room = run.most - run.used[stream];
  char *to = room ? kept[stream] + run.used[stream] : counted;
  ssize_t got = read(run.fds[which], to, room ? room : sizeof counted);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got <= 0) return forget(which), false;
  run.total[stream] += got;
  if (room) run.used[stream] += (size_t)got;
  return true;
}

// Whether it could be run at all. If not, nobody was told of a process.
static void read_report(void) {
  struct failure failure;
  ssize_t got = read(run.fds[REPORT], &failure, sizeof failure);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  forget(REPORT);
  if (got != sizeof failure && !run.waits) answer_first();
  if (got != sizeof failure || !run.first) return;
  errno = failure.error;
  refuse_errno(failure.is_directory ? start.directory : start.argv[0]);
  send_refusal(run.fds[SOCKET], run.first);
  run.end = EXITED;
  leave();
}

// The program has ended. What it left running may go on, but nobody listens to it any more.
static void end(enum end how) {
  if (run.fds[REPORT] >= 0) read_report();
  if (!run.waits) answer_first();
  run.ended = monotonic();
  run.end = WIFEXITED(run.status) ? EXITED : how;
  for (int which = OUTPUT; which <= ERROR; which++) {
    for (int i = 0; run.fds[which] >= 0 && i < DRAIN_READS && read_output(which); i++) continue;
    forget(which);
  }
  if (!send_ended(run.fds[SOCKET])) leave();
  answer_first();
}

static void end_by_force(enum end how) {
  run.status = SIGKILL; // as it is if nothing is known of its end, because it hangs in the kernel
  run.has_survivors = !kill_tree(run.pid, &run.status);
  end(how);
}

static void read_ends(void) {
  struct signalfd_siginfo about;
  if (read(run.fds[ENDS], &about, sizeof about) < 0) return;
  if (reap(run.pid, &run.status) && run.end == RUNNING)
    end(WIFEXITED(run.status) ? EXITED : SIGNALED);
}

// One request at a time; one may come in pieces.
static void read_ask(void) {
  static struct ask ask;
  static size_t used;
  ssize_t got = recv(run.fds[SOCKET], (char *)&ask + used, sizeof ask - used, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) leave();
  if ((used += (size_t)got) < sizeof ask) return;
  used = 0;
  ask.id[MAX_ID - 1] = 0;
  bool was_over = run.end != RUNNING;
  if (ask.what == 'K' && was_over) kill_tree(run.pid, &(int){0}); // what it has left
  if (ask.what == 'K' && !was_over) end_by_force(KILLED);
  answer(ask.id);
}

// Milliseconds until something is to be done without being asked; -1: never.
static int time_left(int64_t now, bool is_paused) {
  if (run.end != RUNNING) return -1;
  int64_t until = is_paused && run.paused_until < run.deadline ? run.paused_until : run.deadline;
  return until <= now ? 0 : (int)((until - now + 999999) / 1000000);
}

__attribute__((noreturn)) static void live(void) {
  for (;;) {
    struct pollfd polled[POLLED];
    int64_t now = monotonic();
    bool is_paused = now < run.paused_until;
    if (run.end == RUNNING && now >= run.deadline) end_by_force(ENDED_LATE);
    for (int i = 0; i < POLLED; i++)
      polled[i] = (struct pollfd){.fd = is_paused && i >= OUTPUT ? -1 : run.fds[i], .events = POLLIN};
    if (poll(polled, POLLED, time_left(now, is_paused)) < 0) continue;
    if (polled[REPORT].revents) read_report();
    for (int i = OUTPUT; i <= ERROR; i++)
      if (polled[i].revents && read_output(i) && run.used[i - OUTPUT] == run.most)
        run.paused_until = monotonic() + PAUSE_NS;
    if (polled[ENDS].revents) read_ends();
    if (polled[SOCKET].revents) read_ask();
  }
}

void run_program(const json_t *params, int number, const char *id, int socket) {
  int64_t seconds = integer_param(params, "timeout", limits.timeout_seconds);
  int64_t most = integer_param(params, "output_bytes", limits.output_bytes);
  if (seconds > limits.timeout_seconds) seconds = limits.timeout_seconds;
  if (most > limits.output_bytes) most = limits.output_bytes;
  run.number = number, run.first = id, run.waits = boolean_param(params, "wait", true);
  run.most = (size_t)(most < MAX_READ ? most : MAX_READ);
  run.started = monotonic(), run.deadline = run.started + seconds * SECOND;
  for (int i = 0; i < POLLED; i++) run.fds[i] = -1;
  run.fds[SOCKET] = socket;
  bool is_ready = prepare_program(params, &start);
  if (is_ready && begin_program(&start, run.fds, &run.pid)) live();
  if (is_ready) refuse_errno("its start");
  send_refusal(socket, id);
  leave();
}
