// SPDX-License-Identifier: Apache-2.0
// A frame is u32 size (big endian) and NUL-terminated fields, each a letter and a value:
//   r (as root), d directory, e NAME=value, a argument, c bytes of code, x its extension, o (the
//   code in a directory of its own); of jobs also i bytes of standard input, I (which stays open),
//   k bytes of output to keep, m note, t ROWS COLUMNS (a terminal), D (descriptor 3 takes displays),
//   R (descriptors 3 and 4 take a driver's requests and answers), C id (the code runs in that
//   context)
// The first argument may be {shell}, which is the image's, or {login}, the user's own; others {file},
// {runner.py} or {runner.js} (code.c).
// Without r it runs as the environment's user, without d where that user's programs start.
// The bytes of code follow the frame, then those of standard input; a run has all the rest of it.
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FRAME (512u << 10)
#define MAX_USERS (1u << 20) // bytes of the file of users

static void add_variable(struct job *job, char *variable) {
  int count = 0;
  while (job->variables[count]) count++;
  if (count == MAX_VARIABLES) errno = E2BIG, fail("variables");
  job->variables[count] = variable;
  putenv(variable);
}

static void parse_window(struct job *job, const char *value) {
  if (sscanf(value, "%hu %hu", &job->window.ws_row, &job->window.ws_col) != 2 ||
      !job->window.ws_row || !job->window.ws_col)
    errno = EPROTO, fail("window");
}

static void parse_field(struct job *job, char *field, int *words) {
  char *value = field + 1;
  switch (*field) {
  case 'r': job->account = &ROOT; break;
  case 'd': job->directory = value, job->has_directory = true; break;
  case 'e': add_variable(job, value); break;
  case 'c': job->code = strtoul(value, NULL, 10); break;
  case 'i': job->input = strtoul(value, NULL, 10); break;
  case 'I': job->keeps_input = true; break;
  case 'k': job->keep = strtoull(value, NULL, 10); break;
  case 'm': job->note = value; break;
  case 't': parse_window(job, value); break;
  case 'D': job->has_displays = true; break;
  case 'R': job->has_driver = true; break;
  case 'C': job->context = value; break;
  case 'x': job->extension = value; break;
  case 'o': job->is_apart = true; break;
  case 'a':
    if (*words == MAX_WORDS) errno = E2BIG, fail("arguments");
    job->argv[(*words)++] = value;
    break;
  default: errno = EPROTO, fail("frame");
  }
}

// bash where the image has it, else its sh, else the kit's.
static char *shell_of_image(void) {
  static char names[][5] = {"bash", "sh"}, kits[] = KIT "/bin/sh";
  char found[MAX_NAME];
  for (size_t i = 0; i < LENGTH(names); i++)
    if (find_program(names[i], found) && access(found, X_OK) == 0) return names[i];
  return kits;
}

// Whether a person can log in to it.
static bool is_shell(const char *file) {
  struct stat about;
  const char *name = strrchr(file, '/');
  return *file == '/' && strcmp(name, "/nologin") && strcmp(name, "/false") &&
         stat(file, &about) == 0 && S_ISREG(about.st_mode) && access(file, X_OK) == 0;
}

// The shell that the image's file of users has for this one, whatever lies in the place of that; else
// the image's.
static char *shell_of_user(uid_t uid) {
  struct stat about;
  struct passwd *user = NULL;
  int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  bool is_good = fd >= 0 && fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
  FILE *users = is_good && about.st_size <= MAX_USERS ? fdopen(fd, "r") : NULL;
  while (users && (user = fgetpwent(users)) && user->pw_uid != uid) {}
  char *shell = user && is_shell(user->pw_shell) ? strdup(user->pw_shell) : NULL;
  if (users) fclose(users);
  else if (fd >= 0) close(fd);
  return shell ? shell : shell_of_image();
}

void read_frame(struct job *job) {
  uint32_t size;
  if (!read_exactly(0, &size, sizeof size)) errno = EPROTO, fail("frame");
  size = ntohl(size);
  char *frame = size > MAX_FRAME ? NULL : malloc(size + 1);
  if (!frame || !read_exactly(0, frame, size)) errno = EPROTO, fail("frame");
  frame[size] = 0;
  int words = 0;
  for (char *at = frame; at < frame + size; at += strlen(at) + 1) parse_field(job, at, &words);
  if (words == 0 || strchr(job->extension, '/') || strlen(job->extension) > MAX_EXTENSION)
    errno = EPROTO, fail("frame");
  if (strcmp(job->argv[0], "{shell}") == 0) job->argv[0] = shell_of_image();
  if (strcmp(job->argv[0], "{login}") == 0) job->argv[0] = shell_of_user(job->account->uid);
}
