// SPDX-License-Identifier: Apache-2.0
// The mounted file systems, from proc_pid_mountinfo(5). Whoever may mount chooses names and number, so
// both are bounded.
#include "facts.h"

#include <stdio.h>
#include <string.h>

#define MAX_LINE_READ 49152 // three names of 4 KiB, of which each byte may be escaped

// Undo the octal escapes of blanks, in place.
static char *unescape(char *name) {
  char *to = name;
  for (const char *from = name; *from; to++) {
    if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
      *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
      from += 4;
    } else
      *to = *from++;
  }
  *to = 0;
  return name;
}

// ID PARENT MAJOR:MINOR ROOT POINT OPTIONS TAG... - TYPE SOURCE OPTIONS
static bool parse(char *line, struct mount *mount) {
  char *rest = line, *field, *fields[6];
  for (size_t i = 0; i < LENGTH(fields); i++)
    if (!(fields[i] = strsep(&rest, " ")) || !rest) return false;
  if (sscanf(fields[2], "%u:%u", &mount->major, &mount->minor) != 2) return false;
  while ((field = strsep(&rest, " ")))
    if (strcmp(field, "-") == 0) break;
  const char *type = strsep(&rest, " ");
  char *source = strsep(&rest, " ");
  if (!type || !source || !rest) return false;
  mount->point = unescape(fields[4]), mount->source = unescape(source), mount->type = type;
  mount->is_writable = strncmp(rest, "rw", 2) == 0;
  return true;
}

static const char *keep(struct mounts *mounts, const char *name) {
  size_t size = strlen(name) + 1;
  if (size > sizeof mounts->names - mounts->used) return NULL;
  char *kept = memcpy(mounts->names + mounts->used, name, size);
  mounts->used += size;
  return kept;
}

// What was mounted here before is out of reach.
static void hide(struct mounts *mounts, const char *point) {
  for (struct mount *old = mounts->all; old < mounts->all + mounts->count; old++)
    if (old->point && strcmp(old->point, point) == 0) old->point = NULL;
}

static struct mount *find(struct mounts *mounts, const struct mount *mount) {
  for (struct mount *old = mounts->all; old < mounts->all + mounts->count; old++)
    if (old->major == mount->major && old->minor == mount->minor) return old;
  return NULL;
}

static bool add(struct mounts *mounts, const struct mount *mount) {
  struct mount *old = find(mounts, mount);
  if (old) {
    if (old->point && strlen(old->point) <= strlen(mount->point)) return true;
    const char *point = keep(mounts, mount->point);
    if (point) old->point = point;
    return point != NULL;
  }
  struct mount added = *mount;
  if (mounts->count == MAX_MOUNTS || !(added.point = keep(mounts, mount->point)) ||
      !(added.type = keep(mounts, mount->type)) || !(added.source = keep(mounts, mount->source)))
    return false;
  mounts->all[mounts->count++] = added;
  return true;
}

bool read_mounts(struct mounts *mounts, bool (*wanted)(const struct mount *)) {
  static char line[MAX_LINE_READ];
  FILE *file = fopen("/proc/self/mountinfo", "re");
  struct mount mount;
  if (!file) return false;
  mounts->count = mounts->used = 0, mounts->is_cut = false;
  while (fgets(line, sizeof line, file)) {
    if (!strchr(line, '\n')) // the end of a long line is options
      for (int byte = 0; byte != '\n' && byte != EOF;) byte = fgetc(file);
    line[strcspn(line, "\n")] = 0;
    if (!parse(line, &mount)) continue;
    hide(mounts, mount.point);
    if (wanted(&mount) && !add(mounts, &mount)) mounts->is_cut = true;
  }
  fclose(file);
  size_t kept = 0;
  for (size_t i = 0; i < mounts->count; i++)
    if (mounts->all[i].point) mounts->all[kept++] = mounts->all[i];
  mounts->count = kept;
  return true;
}

// FUSE on a block device is a program all the same, which may never answer.
bool is_on_disk(const struct mount *mount) {
  static const char *const WITHOUT_NUMBER[] = {"btrfs", "bcachefs"};
  if (strncmp(mount->type, "fuse", 4) == 0) return false;
  if (mount->major) return true;
  for (size_t i = 0; i < LENGTH(WITHOUT_NUMBER); i++)
    if (strcmp(mount->type, WITHOUT_NUMBER[i]) == 0) return true;
  return false;
}
