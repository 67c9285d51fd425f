// SPDX-License-Identifier: Apache-2.0
// Where a program's file is, and which interpreter or loader it needs.
#include "session.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LOOKED_AT 64 // words

// The interpreter or loader that a program file names; false when it names none.
bool interpreter_of(const char *file, char needs[MAX_NAME]) {
  union {
    char text[4096];
    Elf64_Ehdr elf;
  } head = {{0}};
  int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  bool found = fd >= 0 && read(fd, head.text, sizeof head.text - 1) > 2;
  if (found && !strncmp(head.text, "#!", 2)) {
    const char *name = head.text + 2 + strspn(head.text + 2, " \t");
    snprintf(needs, MAX_NAME, "%.*s", (int)strcspn(name, " \t\n"), name);
  } else if (found && !memcmp(head.text, ELFMAG, SELFMAG)) {
    found = false;
    Elf64_Phdr part;
    for (int i = 0; !found && i < head.elf.e_phnum && i < 64; i++) {
      off_t at = (off_t)(head.elf.e_phoff + (size_t)i * sizeof part);
      if (pread(fd, &part, sizeof part, at) != sizeof part) break;
      if (part.p_type != PT_INTERP) continue;
      ssize_t size = pread(fd, needs, MAX_NAME - 1, (off_t)part.p_offset);
      if (size > 0) needs[size] = 0, found = true;
    }
  } else {
    found = false;
  }
  if (fd >= 0) close(fd);
  return found && *needs;
}

// Where the program is, as execvp looks for it.
bool find_program(const char *name, char file[MAX_NAME]) {
  snprintf(file, MAX_NAME, "%s", name);
  if (strchr(name, '/')) return access(file, F_OK) == 0;
  const char *path = getenv("PATH");
  for (const char *at = path ? path : ""; *at; at += *at == ':') {
    int length = (int)strcspn(at, ":");
    snprintf(file, MAX_NAME, "%.*s/%s", length, at, name);
    if (access(file, F_OK) == 0) return true;
    at += length;
  }
  return false;
}

// Whether the first line of a script, or of what is called one, ends as it does on Windows.
static bool ends_in_cr(const char *file) {
  char head[1024];
  size_t length = strlen(file);
  struct stat about;
  if (stat(file, &about) || !S_ISREG(about.st_mode)) return false;
  int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t size = fd < 0 ? 0 : read(fd, head, sizeof head - 1);
  if (fd >= 0) close(fd);
  if (size < 2) return false;
  head[size] = 0;
  size_t end = strcspn(head, "\n");
  bool is_script = !strncmp(head, "#!", 2) || (length > 3 && !strcmp(file + length - 3, ".sh"));
  return is_script && head[end] && end > 0 && head[end - 1] == '\r';
}

static bool look_for_crlf(const char *text, char file[MAX_NAME]) {
  static const char breaks[] = " \t\r\n;|&()<>\"'`";
  for (int words = 0; *text && words < MAX_LOOKED_AT; words++) {
    text += strspn(text, breaks);
    size_t length = strcspn(text, breaks);
    snprintf(file, MAX_NAME, "%.*s", (int)(length < MAX_NAME ? length : 0), text);
    if (*file && ends_in_cr(file)) return true;
    text += length;
  }
  return false;
}

// Whether the run's command or code names such a file of the directory that it started in.
bool names_crlf_script(const struct job *job, char file[MAX_NAME]) {
  if (chdir(job->directory)) return false;
  if (job->code != NO_CODE) return look_for_crlf(job->text, file);
  for (char *const *word = job->argv; *word && word < job->argv + MAX_LOOKED_AT; word++)
    if (look_for_crlf(*word, file)) return true;
  return false;
}
