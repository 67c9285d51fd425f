// SPDX-License-Identifier: Apache-2.0
// What the parts of a job share: its shim, who follows it, and the files that both know it by.
// A job is a directory below JOBS, which only root can enter:
//   state             struct job_state, mapped by the shim, which has it locked as long as it lives;
//                     who follows the job reads it
//   0 1 2             what stdout, stderr and displays printed: START bytes of the beginning, RING of
//                     the end. What lies between is in FAR, on the scratch disk
//   note              bytes of the host's, which it gets back
//   socket            the shim's, as long as the job runs
//   ask answer lock   of a context: the FIFOs of its driver, and whose turn it is
//   used              there once code has run in it
#ifndef WAGGLE_JOB_H
#define WAGGLE_JOB_H

#include "session.h"

#include <stdatomic.h>
#include <stdint.h>

#define JOBS KIT "/run/jobs"
#define FAR KIT "/scratch/jobs"
#define ID_LENGTH 36
#define MAX_JOB_PATH 108 // as a socket's address has room for
#define MAX_LEFT 8192 // bytes of the list of what a job has left

#define JOB_STREAMS 3
enum { STDOUT, STDERR, DISPLAYS };

struct spool {
  _Atomic uint64_t total, kept; // bytes printed, and of these kept from the beginning on
  _Atomic uint64_t begin;       // nothing before is in the ring
};

enum stage { STARTING, RUNNING, ENDED };

struct job_state {
  struct spool spools[JOB_STREAMS];
  _Atomic int stage;
  int status; // as wait(2) has it
  pid_t program;
  int64_t started, ended; // nanoseconds of the monotonic clock
  char left[MAX_LEFT];
};

// job.c: whether NAME is an id; where a file of a job is; complains and ends when ID is none.
bool is_id(const char *name);
void job_path(char path[MAX_JOB_PATH], const char *id, const char *file);
// Make the state, or find it; NULL when that fails. The shim, and it alone, keeps LOCK open: without
// it a job that has not ended is lost.
struct job_state *make_state(const char *id, int *lock);
struct job_state *map_state(const char *id);
// The same, and whether it has a shim.
struct job_state *look_at(const char *id, bool *has_shim);
// Whether there is a job of that id; one that has ended; one that has not, and is not lost.
bool has_state(const char *id);
bool has_ended(const char *id);
bool is_running(const char *id);
// Nanoseconds that it ran, until now or until its end.
int64_t elapsed(const struct job_state *state);
void remove_job(const char *id);

// jobs.c: remove the oldest ended jobs, so that another has room; list all.
void make_room(void);
int list_jobs(void);

// spool.c: open the files to write them, or to read them; store what a job printed.
bool open_spool(int stream, const char *id, struct spool *spool, uint64_t keep);
void feed_spool(int stream, const char *data, size_t size);
bool read_spools(const char *id);
// At most SIZE bytes from *OFFSET on, which moves on over what is not kept.
ssize_t read_spool(int stream, const struct spool *spool, uint64_t *offset, char *data, size_t size);

// displays.c: store displays that were printed, with their places among the other output.
#define MAX_DISPLAYS (32u << 20) // bytes kept of them
void feed_displays(const struct job_state *state, const char *data, size_t size);

// clients.c: those who are connected to this shim, behind its signals in one list to poll. Only those
// who follow are notified: others wait for an answer.
#define CLIENTS 12
extern struct pollfd others[2 + CLIENTS]; // signals, the socket, the clients
struct program {
  pid_t pid;
  int input; // where its standard input is written, or -1
};
void open_clients(const char *id);
void serve_clients(struct program *program);
void notify_clients(void);
void close_clients(void);

// start.c: begin a job, unless it is there, and follow it.
int start_job(const char *id);

// shim.c: be the shim of a job whose frame was read, until nothing is left of it. GIVEN has what came
// for the program's standard input.
void be_shim(struct job *job, struct job_state *its_state, int given) __attribute__((noreturn));

// input.c: the descriptor to read the program's standard input from; where MORE of it is written, if
// it stays open. Or type what came into a terminal.
int open_input(const struct job *job, int given, int *more);
void type_input(const struct job *job, int given, int terminal);

// follow.c: frames with what a job prints, until it ends.
int follow_job(const char *words);
int follow_from(const char *id, uint64_t offsets[JOB_STREAMS]);

// call.c: requests to a shim.
enum request { FOLLOW = 'f', INPUT = 'i', CLOSE = 'c', SIGNAL = 's' };
int connect_shim(const char *id);
// Wait until the shim has ended, and kill it if it does not: its programs are dead.
void end_shim(const char *id);
int input_job(const char *id);
int close_input(const char *id);
int resize_job(const char *words);
int signal_job(const char *words);

// cell.c: be the program of a job whose code runs in a context.
#define CONTEXT_ENDED 64 // the signal that ends it when the context ends first
void run_cell(const struct job *job) __attribute__((noreturn));

#endif
