// SPDX-License-Identifier: Apache-2.0
// The beginning of a program: as whom, where, with what. There is no shell on its way.
#include "exec.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#define MOST_DESCRIPTORS 1024 // of ours, where the kernel cannot close a range
#define PIPE 3                // the program's descriptor of the report, until it runs

static bool no_memory(void) { return refuse(INTERNAL_ERROR, NULL, NULL, "out of memory"), false; }

static bool fill_environment(const json_t *variables, struct start *start) {
  const char *name;
  json_t *value;
  size_t count = 0;
  char **to = start->environment;
  if (!json_is_object(variables)) {
    *to++ = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    *to++ = "LANG=C.UTF-8";
    if (asprintf(to++, "HOME=%s", start->account.home) < 0) return no_memory();
    return asprintf(to, "USER=%s", start->account.name) >= 0 || no_memory();
  }
  json_object_foreach((json_t *)variables, name, value) {
    if (!*name || strchr(name, '=') || count + 1 >= LENGTH(start->environment))
      return refuse(INVALID_PARAMS, "parameter", "environment", "environment has a wrong name"), false;
    if (asprintf(&to[count++], "%s=%s", name, json_string_value(value)) < 0) return no_memory();
  }
  return true;
}

// A file in memory: whoever writes into a pipe waits for the reader.
static int open_input(const json_t *params) {
  size_t size = 0, put = 0;
  unsigned char *data = bytes_param(params, "input", &size);
  if (!data) return open("/dev/null", O_RDONLY | O_CLOEXEC);
  int fd = memfd_create("input", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("input", MFD_CLOEXEC);
  for (ssize_t some; fd >= 0 && put < size; put += (size_t)some)
    if ((some = write(fd, data + put, size - put)) <= 0) break;
  free(data);
  if (fd >= 0 && (put < size || lseek(fd, 0, SEEK_SET))) close(fd), fd = -1;
  return fd;
}

bool prepare_program(const json_t *params, struct start *start) {
  const json_t *argv = json_object_get(params, "argv");
  const char *directory = text_param(params, "directory");
  const char *user = check_user(text_param(params, "user"));
  const json_t *variables = json_object_get(params, "environment");
  if (!user || !check_program(argv, json_object_size(variables) > 0) ||
      !find_account(user, &start->account))
    return false;
  if (json_array_size(argv) >= LENGTH(start->argv))
    return refuse(INVALID_PARAMS, "parameter", "argv", "argv has too many members"), false;
  for (size_t i = 0; i < json_array_size(argv); i++)
    start->argv[i] = (char *)json_string_value(json_array_get(argv, i));
  if (directory && (*directory != '/' || has_dots(directory)))
    return refuse(INVALID_PARAMS, "parameter", "directory", "directory has a .. in it"), false;
  start->directory = directory ? directory : "/";
  if (!fill_environment(variables, start)) return false;
  start->input = open_input(params);
  return start->input >= 0 || (refuse_errno("its input"), false);
}

// Whatever the agent was started with, its programs are not: no ignored signals, no open files.
static void forget_ours(void) {
  sigset_t none;
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (syscall(SYS_close_range, PIPE + 1, ~0u, 0))
    for (int fd = PIPE + 1; fd < MOST_DESCRIPTORS; fd++) close(fd);
}

// Standard input, outputs and the report become 0 to 3, which may be taken by each other now.
static bool move_descriptors(const struct start *start, int report) {
  int from[] = {start->input, start->output[0], start->output[1], report};
  for (int i = 0; i <= PIPE; i++)
    if ((from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, PIPE + 1)) < 0) return false;
  for (int i = 0; i < PIPE; i++)
    if (dup2(from[i], i) < 0) return false;
  return dup3(from[PIPE], PIPE, O_CLOEXEC) >= 0;
}

// Where the agent itself is not what the kernel kills for memory, its programs are. Who has become
// another user may not write this any more.
static void not_spared(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, "0", 1) < 0) errno = 0;
  close(fd);
}

__attribute__((noreturn)) static void fail(bool is_directory) {
  struct failure failure = {errno, is_directory};
  if (write(PIPE, &failure, sizeof failure) < 0) _exit(126);
  _exit(127);
}

// It ends with the process that looks after it, which is asked last: becoming somebody forgets it.
// Who may run programs as a user does not thereby get what set-user-ID programs would give that user;
// root has nothing to gain from them, and its programs may need a domain of their own (SELinux).
__attribute__((noreturn)) static void become_program(const struct start *start, int report,
                                                     pid_t parent) {
  if (!move_descriptors(start, report)) _exit(127);
  forget_ours();
  not_spared();
  if (setsid() < 0 || !become(&start->account)) errno = EPERM, fail(false);
  if (start->account.uid != 0) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (getppid() != parent) _exit(127);
  umask(022);
  if (chdir(start->directory)) fail(true);
  execve(start->argv[0], start->argv, start->environment);
  fail(false);
}

static pid_t start_program(const struct start *start, int *report) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return -1;
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) become_program(start, ends[1], parent);
  close(ends[1]);
  if (pid < 0) close(ends[0]);
  *report = ends[0];
  return pid;
}

bool begin_program(struct start *start, int fds[POLLED], pid_t *pid) {
  sigset_t ends;
  int pipes[2][2];
  sigemptyset(&ends);
  sigaddset(&ends, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &ends, NULL) || !adopt_orphans()) return false;
  signal(SIGCHLD, SIG_DFL); // ignored, nothing would wait to be reaped
  signal(SIGPIPE, SIG_IGN);
  if ((fds[ENDS] = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK)) < 0) return false;
  for (int i = 0; i < 2; i++) {
    if (pipe2(pipes[i], O_CLOEXEC)) return false;
    fds[OUTPUT + i] = pipes[i][0];
    start->output[i] = pipes[i][1];
    if (fcntl(pipes[i][0], F_SETFL, O_NONBLOCK)) return false;
  }
  if ((*pid = start_program(start, &fds[REPORT])) < 0) return false;
  close(start->output[0]), close(start->output[1]), close(start->input);
  return fcntl(fds[REPORT], F_SETFL, O_NONBLOCK) == 0;
}
