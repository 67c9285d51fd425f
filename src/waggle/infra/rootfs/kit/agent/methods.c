// SPDX-License-Identifier: Apache-2.0
// The methods and their parameters, as src/waggle/infra/guest/protocol has them.
#include "agent.h"

#include <linux/capability.h>
#include <string.h>

#define CAPABILITY(number) ((uint64_t)1 << (number))
#define TO_READ CAPABILITY(CAP_DAC_READ_SEARCH)
#define TO_WRITE (CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_FOWNER))
#define TO_END (CAPABILITY(CAP_KILL) | CAPABILITY(CAP_SYS_BOOT))
#define TO_FREEZE (CAPABILITY(CAP_SYS_ADMIN) | TO_READ) // mount points may be anybody's
#define TO_RUN UINT64_MAX // the program itself has what its user has
#define MAX_SAFE 9007199254740991 // what every JSON implementation keeps exactly
#define PATH {"path", ABSOLUTE_PATH, true, 0, 0}
#define PROCESS {"process", INTEGER, true, 1, INT32_MAX}

const struct method METHODS[] = {
    {"ping", ping, HERE, 0, true, {{0}}},
    {"get_agent_info", get_agent_info, CHILD, 0, true, {{"protocol", TEXT, false, 3, 7}}},
    {"get_system_info", get_system_info, HERE, 0, true, {{0}}},
    {"get_network_info", get_network_info, CHILD, 0, true, {{0}}},
    {"get_disk_usage", get_disk_usage, CHILD, TO_READ, true, {{0}}},
    {"get_metrics", get_metrics, HERE, 0, true, {{0}}},
    {"get_users", get_users, CHILD, 0, true, {{0}}},
    {"exec_command", NULL, PROGRAM, TO_RUN, false,
     {{"argv", TEXTS, true, 1, 128},
      {"environment", TEXTS_BY_NAME, false, 0, 64},
      {"directory", ABSOLUTE_PATH, false, 0, 0},
      {"user", TEXT, false, 1, 255},
      {"input", BASE64, false, 0, MAX_WRITE},
      {"timeout", INTEGER, false, 1, 86400},
      {"output_bytes", INTEGER, false, 0, MAX_READ},
      {"wait", BOOLEAN, false, 0, 0}}},
    {"get_process", NULL, PROGRAM, 0, true, {PROCESS}},
    {"kill_process", NULL, PROGRAM, 0, true, {PROCESS}},
    {"file_read", file_read, CHILD, TO_READ, true,
     {PATH, {"offset", INTEGER, false, 0, MAX_SAFE}, {"length", INTEGER, false, 0, MAX_READ}}},
    {"file_write", file_write, CHILD, TO_WRITE, true,
     {PATH, {"data", BASE64, true, 0, MAX_WRITE}, {"offset", INTEGER, false, 0, MAX_SAFE},
      {"mode", INTEGER, false, 0, 0777}}}, // nobody gets a program that runs as root
    {"list_directory", list_directory, CHILD, TO_READ, true,
     {PATH, {"offset", INTEGER, false, 0, MAX_SAFE}, {"limit", INTEGER, false, 1, MAX_ENTRIES}}},
    {"set_time", set_time, CHILD, CAPABILITY(CAP_SYS_TIME), false,
     {{"time", INTEGER, true, 0, INT64_MAX}}},
    {"shutdown", shutdown_machine, CHILD, TO_END, false, {{"manner", TEXT, false, 1, 16}}},
    {"reboot", reboot_machine, CHILD, TO_END, false, {{"manner", TEXT, false, 1, 16}}},
    {"sync_filesystems", sync_filesystems, CHILD, 0, true, {{0}}},
    {"freeze_filesystems", freeze_filesystems, CHILD, TO_FREEZE, false,
     {{"mount_points", TEXTS, false, 0, MAX_LISTED}, {"timeout", INTEGER, false, 1, 600}}},
    {"thaw_filesystems", thaw_filesystems, CHILD, TO_FREEZE, true, {{0}}},
};
const size_t METHOD_COUNT = LENGTH(METHODS);

const struct method *find_method(const char *name) {
  for (size_t i = 0; i < METHOD_COUNT; i++)
    if (strcmp(METHODS[i].name, name) == 0) return &METHODS[i];
  return NULL;
}
