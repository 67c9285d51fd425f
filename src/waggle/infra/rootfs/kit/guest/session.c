// SPDX-License-Identifier: Apache-2.0
// The login shell of the kit's root, which only the host can log in to. It enters the image's
// root and becomes the wanted user there. Its commands, all from the host:
//   run ID    read a frame from stdin (frame.c), then run its argv in a cgroup of its own (run.c)
//   kill ID   kill everything in that cgroup, children of children included
//   any other path that ends in sftp-server: SFTP as the sandbox user
//   (none)    an interactive shell
#include "session.h"

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

static int as_sandbox(char *const argv[], char *const fallback[]) {
  enter_image();
  char *term = getenv("TERM"), *kept = term ? strdup(term) : NULL;
  base_environment();
  if (kept) setenv("TERM", kept, 1);
  become(SANDBOX_ID, SANDBOX_ID);
  if (chdir(SANDBOX_HOME) != 0 && chdir("/") != 0) fail("/");
  umask(022);
  execv(argv[0], argv);
  if (fallback) execv(fallback[0], fallback);
  return complain(argv[0]), FAILED;
}

static int shell(void) {
  char *const bash[] = {"/bin/bash", "-l", NULL}, *const sh[] = {KIT "/bin/busybox", "sh", "-l", NULL};
  return as_sandbox(bash, sh);
}

// The kit's libraries are not the image's: its own loader runs the program against its own.
static int sftp(void) {
  char *const argv[] = {KIT "/lib64/ld-linux-x86-64.so.2", "--library-path", KIT "/lib",
                        KIT "/bin/sftp-server", "-e", NULL};
  return as_sandbox(argv, NULL);
}

int main(int argc, char **argv) {
  if (argc < 3) return shell();
  const char *command = argv[2], *end = strrchr(command, '/');
  if (strncmp(command, "run ", 4) == 0) return run(command + 4);
  if (strncmp(command, "kill ", 5) == 0) return kill_run(command + 5);
  if (end && strcmp(end, "/sftp-server") == 0) return sftp();
  dprintf(2, "waggle: not a command: %s\n", command);
  return FAILED;
}
