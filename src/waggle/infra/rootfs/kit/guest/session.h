// SPDX-License-Identifier: Apache-2.0
// What the parts of the login shell share; session.c says what it is.
#ifndef WAGGLE_SESSION_H
#define WAGGLE_SESSION_H

#include "waggle.h"

#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define MAX_WORDS (64 << 10)
#define FAILED 125 // as container engines say it: the launcher failed, not the program
#define NO_CODE ((size_t)-1)
#define MAX_EXTENSION 16
#define MAX_VARIABLES 1024

// What a frame asks for. `code` bytes of code follow the frame on stdin, unless it is NO_CODE, and
// then `input` bytes for the program's standard input.
struct job {
  const char *id, *directory, *extension;
  const struct account *account;
  size_t code, input;
  bool is_apart;         // the code lies in a directory of its own, `place`
  bool has_directory;    // the host has said where it starts
  bool keeps_input;      // its standard input stays open for more
  bool has_displays;     // descriptor 3 takes displays
  bool has_driver;       // it is a context: descriptors 3 and 4 take requests and answers
  struct winsize window; // it has a terminal of that size, unless it has no rows
  uint64_t keep;         // bytes to keep of what it prints
  const char *note;      // what the host wants to get back
  const char *context;   // the job that its code runs in, or NULL
  const char *text;      // the code, once it is read
  char *variables[MAX_VARIABLES + 1];
  char *argv[MAX_WORDS + 1];
  char file[4352], place[64], runner[128];
};

// Complain and end with FAILED.
void fail(const char *what) __attribute__((noreturn));

// image.c: leave the kit's root for the image's; take the environment's variables, with the names
// of the user that programs run as, and return that user; be a user, with the standard streams and
// the limits of one; say once what init found.
extern const struct account ROOT;
void enter_image(void);
const struct account *base_environment(void);
void name_root(const struct account *account); // in the environment, if it is root
void become(const struct account *account);
void show_notice(void);

// frame.c: read a frame from stdin into JOB.
void read_frame(struct job *job);
// code.c: read its code from stdin; write that to a fresh file and name it in argv, or complain;
// remove the file; remove those of jobs and runs that were killed.
void read_code(struct job *job);
bool write_code(struct job *job);
void remove_code(const struct job *job);
void remove_lost_code(void);
// A file of that name beside code that lies apart; false when it cannot be made.
bool lay(const struct job *job, const char *name, const void *data, size_t size);

// run.c: the command `run ID`. It returns the exit code, as those below.
int run(const char *id);

// tree.c: make the cgroup of this process's run or job; its path; join it; remove it, unless
// something is left in it; kill all in that of any id, and say whether nothing is left.
bool make_tree(const char *id);
const char *tree(void);
void enter_tree(void);
bool forget_tree(void);
bool end_tree(const char *id);
// Remove what a `kill` left that came before its start; all that is so old that no start will come.
void forget_kill_of(const char *id);
void forget_old_kills(void);
int kill_run(const char *id);
// Be the program, with the signal mask that the server had.
void become_program(const struct job *job, const sigset_t *signals) __attribute__((noreturn));
// After its end: whether nothing is left of it; then remove the cgroup once nothing is.
bool is_over(void);
void forget_later(void);

// streams.c: make the pipes, or the terminal, that the program writes to; as the child, have them
// as standard output and error (and 3), or all three; as its parent, keep only the ends that are
// read. Output goes to the SSH server, or into a function.
#define MAX_STREAMS 3
#define DISPLAY_STREAM 2 // the third, of jobs that display things
#define MAX_OTHERS 16
typedef void take_output(int stream, const char *data, size_t size);
bool open_streams(const struct account *account, int count, take_output *into);
bool open_terminal(const struct account *account, const struct winsize *size, take_output *into);
int terminal(void);
bool use_streams(void);
bool use_terminal(void);
void share_streams(void);
// Complain there.
void say_on_stderr(void);
// Pass on what comes, until one of OTHERS is ready too or that many milliseconds are over; as
// poll(2).
int pass_streams(struct pollfd *others, int count, int timeout);
// Pass on what was written until now to the first so many.
void pass_written(int count);
// From now on pass on only what was written until now; false when nothing of it is left.
bool limit_streams(void);
// Whether any may still be written to.
bool has_streams(void);
// Pass on nothing more: read, and forget.
void abandon_streams(void);

// left.c: what a run has left, in at most MAX_LISTED_AT_END lines; the commands `programs` and
// `end PID`.
#define MAX_LISTED_AT_END 20
void list_left(int to, const char *id);
int programs(void);
int end_program(const char *pid);

// program.c: where the program is, as execvp looks for it; the interpreter or loader that its file
// names. Each returns false when there is none.
#define MAX_NAME 512
bool find_program(const char *name, char file[MAX_NAME]);
bool interpreter_of(const char *file, char needs[MAX_NAME]);
// Whether the run's command or code names a script with the line ends of Windows, and which.
bool names_crlf_script(const struct job *job, char file[MAX_NAME]);

// why.c: remember how things are before a run; note, as the child, why its program could not be
// executed, or its directory not be entered; leave a record of a run that failed. `why ID
// NAME...` prints it, and which of these programs are there; it returns the exit code.
void watch_run(void);
void note_exec_failure(const char *name, int error);
void note_directory_failure(int error);
void leave_record(const struct job *job, int status, const char *cgroup);
int why(const char *asked);

#endif
