// SPDX-License-Identifier: Apache-2.0
// What the parts of the login shell share; session.c says what it is.
#ifndef WAGGLE_SESSION_H
#define WAGGLE_SESSION_H

#include "waggle.h"

#define MAX_WORDS (64 << 10)
#define FAILED 125 // as container engines say it: the launcher failed, not the program
#define NO_CODE ((size_t)-1)
#define MAX_EXTENSION 16

// What a frame asks for. `code` bytes of code follow the frame on stdin, unless it is NO_CODE.
struct job {
  const char *id, *directory, *extension;
  const struct account *account;
  size_t code;
  bool is_apart;    // the code lies in a directory of its own, `place`
  const char *text; // the code, once it is written
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
void become(const struct account *account);
void show_notice(void);

// frame.c: read a frame from stdin into JOB.
void read_frame(struct job *job);
// code.c: write its code to a fresh file and name that in argv; remove that file.
void write_code(struct job *job);
void remove_code(const struct job *job);

// run.c, ending.c: the commands `run ID` and `kill ID`. Each returns the exit code.
int run(const char *id);
int kill_run(const char *id);
// ending.c: where a file of that run's cgroup is; kill all in it, and say whether nothing is left.
void cgroup_path(char *path, size_t size, const char *id, const char *file);
bool end_tree(const char *id);

// streams.c: make the pipes that the program writes to; as the child, have them as standard output
// and error; as its parent, keep only the ends that are read.
bool open_streams(const struct account *account);
bool use_streams(void);
void share_streams(void);
// Pass on what comes, until OTHER is ready too or that many milliseconds are over; as poll(2).
int pass_streams(struct pollfd *other, int timeout);
// From now on pass on only what was written until now; false when nothing of it is left.
bool limit_streams(void);
// Pass on nothing more: read, and forget.
void abandon_streams(void);

// left.c: after the mark and the run's id on stderr, what a run has left, in at most MAX_TOLD
// lines; the commands `programs` and `end PID`.
#define LEFT_MARK "waggle-left"
#define MAX_TOLD 20
void tell_left(int to, const char *id);
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
