// SPDX-License-Identifier: Apache-2.0
// freeze_filesystems, thaw_filesystems, sync_filesystems: which file systems; keeper.c holds them.
#include "facts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DEFAULT_SECONDS 60

static struct mounts mounts;
static const json_t *named; // the mount points of the request
static bool is_found[MAX_LISTED];

static bool can_be_frozen(const struct mount *mount) { return is_on_disk(mount) && mount->is_writable; }

static bool is_named(const struct mount *mount) {
  bool found = false;
  size_t i;
  json_t *name;
  json_array_foreach(named, i, name)
    if (i < MAX_LISTED && strcmp(json_string_value(name), mount->point) == 0) found = is_found[i] = true;
  return found;
}

// Fill `mounts`; false after a refusal.
static bool choose(void) {
  if (!read_mounts(&mounts, named ? is_named : can_be_frozen))
    return refuse_errno("the mounted file systems"), false;
  for (size_t i = 0; i < json_array_size(named); i++)
    if (i >= MAX_LISTED || !is_found[i])
      return refuse(NOT_FOUND, "parameter", "mount_points", "mount_points: one is not mounted"), false;
  if (mounts.is_cut)
    return refuse(TOO_LARGE, NULL, NULL, "there are more file systems than can be frozen"), false;
  return true;
}

static json_t *result(int count) { return json_pack("{s:i}", "count", count); }

json_t *freeze_filesystems(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)bytes;
  const json_t *list = json_object_get(params, "mount_points");
  named = json_is_array(list) ? list : NULL;
  int seconds = (int)integer_param(params, "timeout", DEFAULT_SECONDS);
  if (!choose()) return NULL;
  if (mounts.count == 0) return result(0);
  int count = start_keeper(&mounts, named != NULL, seconds);
  if (count >= 0) return result(count);
  if (errno == EALREADY) return result(frozen_count());
  if (errno == EINPROGRESS) return refuse(BUSY, NULL, NULL, "another request freezes file systems");
  if (errno == EOPNOTSUPP || errno == ENOTTY || errno == ENOTDIR)
    return refuse(UNSUPPORTED, "parameter", "mount_points", "such a file system cannot be frozen");
  if (errno == ETIMEDOUT) return refuse(TIMED_OUT, NULL, NULL, "freezing took too long");
  return refuse_errno("freeze");
}

// Without a keeper: one that was killed has left them so, or another program has frozen them.
static int thaw_all(void) {
  int count = 0;
  if (!read_mounts(&mounts, can_be_frozen)) return 0;
  for (size_t i = 0; i < mounts.count; i++) {
    int fd = open(mounts.all[i].point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) continue;
    if (ioctl(fd, FITHAW, 0) == 0) count++;
    close(fd);
  }
  return count;
}

json_t *thaw_filesystems(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  int count = end_keeper();
  return result(count < 0 ? thaw_all() : count);
}

json_t *sync_filesystems(const json_t *params, struct bytes bytes[MAX_BYTES]) {
  (void)params, (void)bytes;
  sync();
  return json_object();
}
