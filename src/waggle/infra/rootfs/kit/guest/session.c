// SPDX-License-Identifier: Apache-2.0
// The login shell of the kit's root, which only the host can log in to. It enters the image's
// root and becomes the wanted user there. Its commands, all from the host:
//   run ID    read a frame from stdin (frame.c), then run its argv in a cgroup of its own (run.c)
//   start ID  the same as a job, which outlives the connection (shim.c), and follow it
//   follow ID OFFSET OFFSET OFFSET  what a job prints, from there on, and its end (follow.c)
//   jobs      list them, with the notes of the host (jobs.c)
//   input ID, close ID, signal ID N, resize ID ROWS COLUMNS  for a job that runs (call.c)
//   why ID NAME...  print what is known of that run's failure, and which programs are there (why.c)
//   kill ID   kill everything in that cgroup, children of children included
//   programs  list what runs have left running, and what still runs (left.c)
//   end PID   kill one of these with its descendants
//   any other path that ends in sftp-server: SFTP as that user, in waggle's home directory
//   (none)    an interactive shell
#include "job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void fail(const char *what) {
  complain(what);
  exit(FAILED);
}

static const struct account *as_user(bool is_person) {
  enter_image();
  if (is_person) show_notice();
  char *term = getenv("TERM"), *kept = term ? strdup(term) : NULL;
  const struct account *account = base_environment();
  if (kept) setenv("TERM", kept, 1);
  become(account);
  umask(022);
  return account;
}

// The image's own shell if it names one; a name that begins with '-' makes a shell a login
// shell. Without it bash, and the kit's shell where there is none.
static int shell(void) {
  const struct account *account = as_user(true);
  const char *slash = strrchr(account->shell, '/');
  char name[MAX_PATH + 1];
  if (chdir(account->directory) && chdir(SANDBOX_HOME) && chdir("/")) fail("/");
  snprintf(name, sizeof name, "-%s", slash ? slash + 1 : account->shell);
  if (*account->shell) execvp(account->shell, (char *[]){name, NULL});
  execl("/bin/bash", "/bin/bash", "-l", NULL);
  execl(KIT "/bin/busybox", "sh", "-l", NULL);
  return complain(KIT "/bin/busybox"), FAILED;
}

// The kit's libraries are not the image's: its own loader runs the program against its own.
static int sftp(void) {
  as_user(false);
  if (chdir(SANDBOX_HOME) && chdir("/")) fail("/");
  execl(KIT "/lib64/ld-linux-x86-64.so.2", KIT "/lib64/ld-linux-x86-64.so.2", "--library-path",
        KIT "/lib", "--preload", KIT "/lib/replace.so", KIT "/bin/sftp-server", "-e", NULL);
  return complain("sftp-server"), FAILED;
}

static int list(const char *nothing) {
  (void)nothing;
  return list_jobs();
}

static int list_programs(const char *nothing) {
  (void)nothing;
  return programs();
}

static const struct {
  const char *name;
  int (*command)(const char *words);
} COMMANDS[] = {
    {"run ", run},          {"start ", start_job},  {"follow ", follow_job}, {"jobs", list},
    {"input ", input_job},  {"close ", close_input}, {"signal ", signal_job}, {"resize ", resize_job},
    {"kill ", kill_run},    {"why ", why},          {"end ", end_program},   {"programs", list_programs},
};

int main(int argc, char **argv) {
  if (argc < 3) return shell();
  const char *command = argv[2], *end = strrchr(command, '/');
  for (size_t i = 0; i < LENGTH(COMMANDS); i++) {
    size_t length = strlen(COMMANDS[i].name);
    if (strncmp(command, COMMANDS[i].name, length) == 0) return COMMANDS[i].command(command + length);
  }
  if (end && strcmp(end, "/sftp-server") == 0) return sftp();
  dprintf(2, "waggle: not a command: %s\n", command);
  return FAILED;
}
