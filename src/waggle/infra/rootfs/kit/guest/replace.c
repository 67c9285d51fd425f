// SPDX-License-Identifier: Apache-2.0
// Preloaded into sftp-server: a file that the host wrote beside another one takes its place
// (infra/ssh/sftp/writing.py). A rename does that at once, so that readers see the old file or the new
// one; but it makes a new file, so it is for a file of the user's own that has one name and no
// attributes. Any other is written in place, as write(2) would: its owner, other names and
// attributes stay, and a file that the user may not write is refused, whatever its directory allows.
// Room is taken before a byte changes. All other renames are plain.
// Needs no library's headers: it runs beside glibc, and the compiler here is set up for musl.

#define WRITE_ONLY 1
#define CLOEXEC_NOFOLLOW_NOCTTY (02000000 | 0400000 | 0400)
#define KEEP_SIZE 1

#define SYS_OPEN 2
#define SYS_CLOSE 3
#define SYS_FSTAT 5
#define SYS_LSTAT 6
#define SYS_SENDFILE 40
#define SYS_FTRUNCATE 77
#define SYS_RENAME 82
#define SYS_UNLINK 87
#define SYS_FCHMOD 91
#define SYS_LLISTXATTR 195
#define SYS_FALLOCATE 285

#define EPERM 1
#define EINTR 4
#define EIO 5
#define EACCES 13
#define EBUSY 16
#define EXDEV 18
#define ENOSYS 38
#define EOPNOTSUPP 95

struct about { // struct stat of x86-64
  unsigned long device, inode, links;
  unsigned mode, user, group, padding;
  unsigned long special;
  long size, rest[11];
};
_Static_assert(sizeof(struct about) == 144, "what the kernel fills in");

extern int *__errno_location(void);

static long call(long number, long first, long second, long third, long fourth) {
  register long fourth_register __asm__("r10") = fourth;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(first), "S"(second), "d"(third), "r"(fourth_register)
                   : "rcx", "r11", "memory");
  return result;
}

static int is_ours(const char *path) {
  static const char prefix[] = ".waggle-";
  const char *name = path;
  for (const char *at = path; *at; at++)
    if (*at == '/') name = at + 1;
  for (int i = 0; prefix[i]; i++)
    if (name[i] != prefix[i]) return 0;
  return 1;
}

static int is_regular(const struct about *file) { return (file->mode & 0170000) == 0100000; }

// A file that one name, one owner and the permission bits describe: another may be put in its place.
static int is_plain(const char *path, const struct about *old, const struct about *new) {
  return old->links == 1 && old->user == new->user && old->group == new->group &&
         call(SYS_LLISTXATTR, (long)path, 0, 0, 0) <= 0;
}

static long copy(int from, int to, long size, long room) {
  long failed = size > room ? call(SYS_FALLOCATE, to, KEEP_SIZE, 0, size) : 0;
  if (failed < 0 && failed != -EOPNOTSUPP && failed != -ENOSYS) return failed;
  for (long left = size; left > 0;) {
    long moved = call(SYS_SENDFILE, to, from, 0, left);
    if (moved == -EINTR) continue;
    if (moved <= 0) return moved ? moved : -EIO;
    left -= moved;
  }
  return call(SYS_FTRUNCATE, to, size, 0, 0);
}

static long rewrite(const char *from, const char *path, const struct about *new) {
  long in = call(SYS_OPEN, (long)from, CLOEXEC_NOFOLLOW_NOCTTY, 0, 0);
  if (in < 0) return in;
  long out = call(SYS_OPEN, (long)path, WRITE_ONLY | CLOEXEC_NOFOLLOW_NOCTTY, 0, 0);
  struct about old;
  long result = out < 0 ? out : call(SYS_FSTAT, out, (long)&old, 0, 0);
  if (result == 0 && !is_regular(&old)) result = -EPERM;
  // Its mode is its owner's to change; that a write drops the special bits is no change.
  int is_owner = old.user == new->user || new->user == 0;
  if (result == 0 && !is_owner && ((old.mode ^ new->mode) & 0777)) result = -EPERM;
  if (result == 0) result = copy((int)in, (int)out, new->size, old.size);
  if (result == 0 && is_owner) result = call(SYS_FCHMOD, out, new->mode & 07777, 0, 0);
  if (out >= 0) call(SYS_CLOSE, out, 0, 0, 0);
  call(SYS_CLOSE, in, 0, 0, 0);
  return result;
}

static long replace(const char *from, const char *to) {
  struct about new, old;
  if (!is_ours(from) || call(SYS_LSTAT, (long)from, (long)&new, 0, 0) || !is_regular(&new) ||
      call(SYS_LSTAT, (long)to, (long)&old, 0, 0) || !is_regular(&old))
    return call(SYS_RENAME, (long)from, (long)to, 0, 0);
  if (is_plain(to, &old, &new)) {
    long result = call(SYS_RENAME, (long)from, (long)to, 0, 0);
    if (result != -EACCES && result != -EPERM && result != -EXDEV && result != -EBUSY)
      return result;
  }
  long result = rewrite(from, to, &new);
  if (result == 0) call(SYS_UNLINK, (long)from, 0, 0, 0);
  return result;
}

int rename(const char *from, const char *to) {
  long result = replace(from, to);
  return result < 0 ? (*__errno_location() = (int)-result, -1) : 0;
}
