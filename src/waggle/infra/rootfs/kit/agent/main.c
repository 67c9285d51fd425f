// SPDX-License-Identifier: Apache-2.0
// waggle-agent: answers the host of a virtual machine over a virtio-serial port. docs/guest-agent.md.
#include "server.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define AGENT_VERSION "0.1.0" // as the project's
#define POLICY "/etc/waggle-agent/config.json"

enum init init = INIT_AUTO;

const char STARTED[] = "\n{\"jsonrpc\":\"2.0\",\"method\":\"agent_started\","
                       "\"params\":{\"version\":\"" AGENT_VERSION "\"}}\n";

static const char USAGE[] =
    "Usage: waggle-agent [OPTION]...\n"
    "Answer the host of this virtual machine over a virtio-serial port.\n\n"
    "  --port PATH      the port; by default the one that is named " PORT_NAME "\n"
    "  --fd NUMBER      the port as a descriptor that is open already\n"
    "  --channels NUMBER  a socket over which ports come as descriptors: the last one counts\n"
    "  --policy FILE    what is allowed; by default " POLICY ".\n"
    "                   Given more than once, each file must allow a request\n"
    "  --init NAME      how PID 1 ends the machine: auto, systemd or busybox\n"
    "  --check          check the policies, and end\n"
    "  --version        print the version, and end\n"
    "  --help           print this, and end\n";

static const struct option OPTIONS[] = {
    {"port", required_argument, NULL, 'p'},     {"fd", required_argument, NULL, 'f'},
    {"channels", required_argument, NULL, 's'}, {"policy", required_argument, NULL, 'c'},
    {"init", required_argument, NULL, 'i'},     {"check", no_argument, NULL, 'k'},
    {"version", no_argument, NULL, 'v'},        {"help", no_argument, NULL, 'h'},
    {0},
};

static int misused(const char *reason, const char *value) {
  fprintf(stderr, "waggle-agent: %s%s\nTry waggle-agent --help.\n", reason, value);
  return 2;
}

static bool take_init(const char *name) {
  static const char *const names[] = {"auto", "systemd", "busybox"};
  for (unsigned i = 0; i < LENGTH(names); i++)
    if (strcmp(name, names[i]) == 0) return init = (enum init)i, true;
  return false;
}

static bool take_descriptor(const char *name, int *fd) {
  char *end;
  long number = strtol(name, &end, 10);
  *fd = (int)number;
  return *name && !*end && number >= 0 && number <= INT32_MAX && fcntl(*fd, F_GETFD) >= 0;
}

// The ids of what is under way for this host, to which the request at hand does not belong yet. NULL
// when they do not fit: a host takes what is missing for lost.
static json_t *pending(void) {
  json_t *ids = json_array();
  json_error_t error;
  for (const struct child *child = children; child < children + MAX_CHILDREN; child++)
    for (int i = 0; i < child->waiting_count; i++) {
      const char *id = child->waiting[i].id;
      if (*id && json_array_append_new(ids, parse_line(id, strlen(id), &error))) return NULL;
    }
  return ids;
}

// The protocol that is spoken: of the host's major number, and not above ours.
json_t *get_agent_info(const json_t *params, struct bytes *bytes) {
  const char *wanted = text_param(params, "protocol");
  json_t *methods = json_array();
  (void)bytes;
  if (wanted && strncmp(wanted, "1.", 2)) {
    json_decref(methods);
    return refuse(UNSUPPORTED, "supported", PROTOCOL, "The protocol %s is not supported.", wanted);
  }
  for (size_t i = 0; i < METHOD_COUNT; i++)
    if (allows_method(&METHODS[i])) json_array_append_new(methods, json_string(METHODS[i].name));
  return json_pack("{s:s,s:s,s:s,s:[s],s:o,s:[sss],s:o,s:o}", "agent", "waggle-agent", "version",
                   AGENT_VERSION, "protocol", PROTOCOL, "supported", PROTOCOL, "methods", methods,
                   "capabilities", "parallel", "processes", "audit", "policy", policy_info(), "pending",
                   pending());
}

// Nothing that is opened later, as the port, is where messages go or what children keep.
static void open_standard(void) {
  int fd = 0;
  while (fd >= 0 && fd < 3) fd = open("/dev/null", O_RDWR);
  if (fd >= 3) close(fd);
}

static void prepare(void) {
  prctl(PR_SET_NAME, "waggle-agent"); // also where it was started from a descriptor
  umask(0);
  if (chdir("/")) perror("waggle-agent: /");
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  bound_memory(); // policies are there by now, and stay
}

int main(int argc, char **argv) {
  const char *port = NULL;
  bool is_check = false;
  int fd = -1, source = -1, option;
  open_standard();
  while ((option = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
    if (option == 'p') port = optarg;
    else if ((option == 'f' || option == 's') &&
             !take_descriptor(optarg, option == 'f' ? &fd : &source))
      return misused("no such descriptor: ", optarg);
    else if (option == 'c' && !load_policy(optarg)) return EX_CONFIG;
    else if (option == 'i' && !take_init(optarg)) return misused("no such init: ", optarg);
    else if (option == 'k') is_check = true;
    else if (option == 'v') return puts("waggle-agent " AGENT_VERSION ", protocol " PROTOCOL), 0;
    else if (option == 'h') return fputs(USAGE, stdout), 0;
    else if (option == '?') return misused("wrong option", "");
  }
  if (optind < argc) return misused("unexpected argument: ", argv[optind]);
  if (!has_policy() && !load_policy(POLICY)) return EX_CONFIG;
  if (is_check) return 0;
  if (source < 0 && fd < 0 && (fd = open_channel(port)) < 0) return 1;
  prepare();
  return serve(fd, source);
}
