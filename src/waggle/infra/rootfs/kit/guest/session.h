// SPDX-License-Identifier: Apache-2.0
// What the parts of the login shell share; session.c says what it is.
#ifndef WAGGLE_SESSION_H
#define WAGGLE_SESSION_H

#include "waggle.h"

#define MAX_WORDS (64 << 10)
#define FAILED 125 // as container engines say it: the launcher failed, not the program
#define NO_CODE ((size_t)-1)

// What a frame asks for. `code` bytes of code follow the frame on stdin, unless it is NO_CODE.
struct job {
  const char *id, *directory, *extension;
  const struct account *account;
  size_t code;
  char *argv[MAX_WORDS + 1];
  char file[4352];
};

// Complain and end with FAILED.
void fail(const char *what) __attribute__((noreturn));

// image.c: leave the kit's root for the image's; take the environment's variables, with the names
// of the user that programs run as, and return that user; be a user; say once what init found.
extern const struct account ROOT;
void enter_image(void);
const struct account *base_environment(void);
void become(const struct account *account);
void show_notice(void);

// frame.c: read a frame from stdin into JOB; write its code to a fresh file and name that in argv.
void read_frame(struct job *job);
void write_code(struct job *job);

// run.c: the commands `run ID` and `kill ID`. Each returns the exit code.
int run(const char *id);
int kill_run(const char *id);

// program.c: where the program is, as execvp looks for it; the interpreter or loader that its file
// names. Each returns false when there is none.
#define MAX_NAME 512
bool find_program(const char *name, char file[MAX_NAME]);
bool interpreter_of(const char *file, char needs[MAX_NAME]);

// why.c: remember how things are before a run; note, as the child, why its program could not be
// executed, or its directory not be entered; leave a record of a run that failed. `why ID` prints
// it and returns the exit code.
void watch_run(void);
void note_exec_failure(const char *name, int error);
void note_directory_failure(int error);
void leave_record(const char *id, int status, const char *cgroup);
int why(const char *id);

#endif
