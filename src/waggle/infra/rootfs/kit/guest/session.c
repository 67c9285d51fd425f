// SPDX-License-Identifier: Apache-2.0
// The login shell of the kit's root, which only the host can log in to. It enters the image's
// root and becomes the wanted user there. Its commands, all from the host:
//   run ID    read a frame from stdin, then run its argv in a cgroup of its own
//   kill ID   kill everything in that cgroup, children of children included
//   any other path that ends in sftp-server: SFTP as the sandbox user
//   (none)    an interactive shell
// A frame is u32 size (big endian) and NUL-terminated fields, each a letter and a value:
//   u uid, g gid, d directory, e NAME=value, a argument, c bytes of code, x its extension
// The bytes of code follow the frame; the rest of stdin is the program's.
#include "waggle.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_FRAME (160u << 10)
#define MAX_WORDS 4096
#define FAILED 125 // as container engines say it: the launcher failed, not the program

struct job {
  const char *id, *directory, *extension;
  unsigned uid, gid;
  size_t code;
  char *argv[MAX_WORDS + 1];
  char file[4352];
};

static void fail(const char *what) {
  complain(what);
  exit(FAILED);
}

// Leave the kit's root for the image's: joining PID 1's mount namespace resets the root to it.
static void enter_image(void) {
  int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNS) != 0) fail("entering the image");
  close(fd);
}

static void base_environment(void) {
  static char text[64 << 10];
  clearenv();
  int fd = open(KIT_ENVIRONMENT, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  for (char *at = text; size > 0 && at < text + size; at += strlen(at) + 1) putenv(at);
  if (fd >= 0) close(fd);
}

static void become(unsigned uid, unsigned gid) {
  if (setgroups(1, (gid_t[]){gid}) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
    fail("changing the user");
  if (uid == 0) setenv("HOME", "/root", 1), setenv("USER", "root", 1), setenv("LOGNAME", "root", 1);
}

static void cgroup_path(char *path, size_t size, const char *id, const char *file) {
  for (const char *c = id; *c; c++)
    if (!strchr("0123456789abcdef-", *c)) errno = EINVAL, fail("id");
  snprintf(path, size, KIT_CGROUP "/%s%s", id, file);
}

static void parse_field(struct job *job, char *field, int *words) {
  char *value = field + 1;
  switch (*field) {
  case 'u': job->uid = (unsigned)strtoul(value, NULL, 10); break;
  case 'g': job->gid = (unsigned)strtoul(value, NULL, 10); break;
  case 'd': job->directory = value; break;
  case 'e': putenv(value); break;
  case 'c': job->code = strtoul(value, NULL, 10); break;
  case 'x': job->extension = value; break;
  case 'a':
    if (*words == MAX_WORDS) errno = E2BIG, fail("arguments");
    job->argv[(*words)++] = value;
    break;
  default: errno = EPROTO, fail("frame");
  }
}

static void read_frame(struct job *job) {
  uint32_t size;
  if (!read_exactly(0, &size, sizeof size) || (size = ntohl(size)) > MAX_FRAME) errno = EPROTO, fail("frame");
  char *frame = malloc(size + 1);
  if (!frame || !read_exactly(0, frame, size)) fail("frame");
  frame[size] = 0;
  int words = 0;
  for (char *at = frame; at < frame + size; at += strlen(at) + 1) parse_field(job, at, &words);
  if (words == 0) errno = EPROTO, fail("frame");
}

// The code lies in the working directory, so that imports and relative paths mean what they say.
static void write_code(struct job *job) {
  char buffer[64 << 10];
  snprintf(job->file, sizeof job->file, "%s/.waggle-%.13s%s", job->directory, job->id, job->extension);
  int fd = open(job->file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) fail(job->file);
  while (job->code > 0) {
    size_t want = job->code < sizeof buffer ? job->code : sizeof buffer;
    if (!read_exactly(0, buffer, want)) unlink(job->file), fail("reading the code");
    if (write(fd, buffer, want) != (ssize_t)want) unlink(job->file), fail(job->file);
    job->code -= want;
  }
  if (fchown(fd, job->uid, job->gid) || close(fd)) fail(job->file);
  for (char **word = job->argv; *word; word++)
    if (strcmp(*word, "{file}") == 0) *word = job->file;
}

static void start(const struct job *job, const char *cgroup) {
  char procs[256];
  snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
  write_text(procs, "0");
  setsid();
  become(job->uid, job->gid);
  if (chdir(job->directory)) fail(job->directory);
  umask(022);
  signal(SIGHUP, SIG_DFL);
  execvp(job->argv[0], job->argv);
  complain(job->argv[0]);
  _exit(errno == ENOENT ? 127 : 126);
}

// End as the program ended, so that SSH reports its exit code or its signal.
static int pass_on(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  signal(WTERMSIG(status), SIG_DFL);
  raise(WTERMSIG(status));
  return 128 + WTERMSIG(status);
}

static int run(const char *id) {
  static struct job job = {.directory = SANDBOX_HOME, .extension = "", .uid = SANDBOX_ID, .gid = SANDBOX_ID};
  char cgroup[160];
  job.id = id;
  job.code = (size_t)-1;
  enter_image();
  cgroup_path(cgroup, sizeof cgroup, id, "");
  base_environment();
  read_frame(&job);
  if (mkdir(cgroup, 0755)) fail(cgroup);
  bool has_code = job.code != (size_t)-1;
  if (has_code) write_code(&job);
  signal(SIGHUP, SIG_IGN);
  pid_t child = fork();
  if (child == 0) start(&job, cgroup);
  int status = FAILED << 8;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (has_code) unlink(job.file);
  rmdir(cgroup); // stays while something was left running in the background
  return pass_on(status);
}

static int kill_all(const char *id) {
  char path[160], events[128];
  cgroup_path(path, sizeof path, id, "/cgroup.kill");
  enter_image();
  if (access(path, F_OK) != 0) return 0;
  write_text(path, "1");
  cgroup_path(path, sizeof path, id, "/cgroup.events");
  for (int i = 0; i < 400; i++) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, events, sizeof events - 1);
    if (fd >= 0) close(fd);
    events[size > 0 ? size : 0] = 0;
    if (!strstr(events, "populated 1")) break;
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
  }
  cgroup_path(path, sizeof path, id, "");
  rmdir(path);
  return 0;
}

static int as_sandbox(char *const argv[], char *const fallback[]) {
  enter_image();
  char *term = getenv("TERM"), *kept = term ? strdup(term) : NULL;
  base_environment();
  if (kept) setenv("TERM", kept, 1);
  become(SANDBOX_ID, SANDBOX_ID);
  if (chdir(SANDBOX_HOME) != 0) chdir("/");
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
  if (strncmp(command, "kill ", 5) == 0) return kill_all(command + 5);
  if (end && strcmp(end, "/sftp-server") == 0) return sftp();
  dprintf(2, "waggle: not a command: %s\n", command);
  return FAILED;
}
