// SPDX-License-Identifier: Apache-2.0
// The guest agent: what its files share. docs/guest-agent.md is the specification.
//
// One process waits for requests (main.c, channel.c, requests.c). It answers itself what can neither
// block nor harm, and has a child for everything else (children.c): the child gives up what it does not
// need, makes the result and sends the answer, or is killed when its time is over. A program that is
// run has a child of its own as long as it runs and is asked for (exec.c).
// Nobody is trusted: neither the host that sends requests nor the files and programs of this machine.
#ifndef AGENT_H
#define AGENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL "1.0"
#define PORT_NAME "org.waggle.agent.0"
#define LENGTH(array) (sizeof(array) / sizeof *(array))

#define MAX_LINE 262144   // bytes of a request, with its end
#define MAX_READ 262144   // bytes of one file_read, and of each output of a process
#define MAX_WRITE 180224  // bytes of one file_write, and of a standard input
#define MAX_DEPTH 16      // arrays and objects in each other
#define MAX_ID 400        // bytes of an id as JSON
#define MAX_PATH 4096     // with the NUL
#define MAX_LISTED 64     // entries of most lists in results
#define MAX_ENTRIES 1000  // of a directory, in one answer
#define MEMORY (1u << 20) // bytes that the JSON of one process may take

enum code {
  OK = 0,
  PARSE_ERROR = -32700,
  INVALID_REQUEST = -32600,
  METHOD_NOT_FOUND = -32601,
  INVALID_PARAMS = -32602,
  INTERNAL_ERROR = -32603,
  DENIED = -32000,
  NOT_FOUND = -32001,
  TOO_LARGE = -32002,
  TIMED_OUT = -32003,
  BUSY = -32004,
  UNSUPPORTED = -32005,
  FAILED = -32006,
};

// answers.c: bytes of a result, which are sent as base64 in the member NAME, after all others.
struct bytes {
  const char *name;
  const void *data;
  size_t size;
};
#define MAX_BYTES 2 // members of one result

// A method's handler returns the result, a new reference, or NULL after `refuse`. It finds its
// parameters checked against the method's list. What it puts into `bytes` must live until it is sent.
typedef json_t *handler(const json_t *params, struct bytes bytes[MAX_BYTES]);

// params.c: the parameters of methods. `most` is the largest number, the bytes of a text or of decoded
// base64, or the members of a list or object. A list has texts, an object texts as members.
enum kind { INTEGER, BOOLEAN, TEXT, ABSOLUTE_PATH, BASE64, TEXTS, TEXTS_BY_NAME };
struct param {
  const char *name;
  enum kind kind;
  bool is_required;
  int64_t least, most;
};
#define MAX_PARAMS 8

enum where { HERE, CHILD, PROGRAM }; // who answers: the first process, a child, one that stays
struct method {
  const char *name;
  handler *handle;
  enum where where;
  uint64_t capabilities; // what the child keeps, as 1 << CAP_...
  bool is_default;       // allowed by a policy that does not say
  struct param params[MAX_PARAMS];
};
extern const struct method METHODS[]; // methods.c
extern const size_t METHOD_COUNT;
const struct method *find_method(const char *name);

// Refuse the request at hand: the code, a message for people, made as by printf, and one member of
// `data` (or NULL for both). Always NULL, so that a handler can return it.
json_t *refuse(enum code code, const char *name, const char *value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// Refuse because of errno: not found, denied by nobody but the system, and so on. WHAT as in strerror.
json_t *refuse_errno(const char *what);

// Check parameters (an object or NULL) against the method's; false after `refuse`.
bool check_params(const struct method *method, const json_t *params);
// The parameter, or the default where it is missing. Texts live as long as the parameters.
int64_t integer_param(const json_t *params, const char *name, int64_t otherwise);
bool boolean_param(const json_t *params, const char *name, bool otherwise);
const char *text_param(const json_t *params, const char *name); // NULL where missing
// Decode a BASE64 parameter, in place of a new buffer, which is the caller's; NULL where missing.
unsigned char *bytes_param(const json_t *params, const char *name, size_t *size);

// base64.c. `decode` returns the size, or -1 for anything but canonical base64 with its padding.
size_t base64_size(size_t size);
void base64_encode(const void *data, size_t size, char *to);
ssize_t base64_decode(const char *text, size_t length, unsigned char *to);

// children.c: nanoseconds since some time in the past.
int64_t monotonic(void);

// memory.c: bound what JSON may take to MEMORY bytes; the rest is as malloc.
void bound_memory(void);
size_t memory_left(void);
// Parse what a host sends, by nothing else: memory may end within it. NULL with an error, whose text is
// empty if there is no memory for it.
json_t *parse_line(const char *line, size_t size, json_error_t *error);
// Let a result that is made be sent: writing it takes a little, too.
void spare_memory(bool is_spared);

// text.c: a JSON string of what may not be UTF-8: each bad byte becomes U+FFFD; cut to MOST bytes.
json_t *text(const char *data, size_t size, size_t most);
// Read a small file whole, with a NUL at its end; false if it cannot be read. Cut to SIZE - 1.
bool read_text(const char *path, char *to, size_t size);

// policy.c: what all policies together allow. Each refuses (false, or NULL) with the policy's entry.
struct limits {
  int64_t read_bytes, write_bytes, output_bytes, timeout_seconds, requests, processes;
};
extern struct limits limits; // the lowest of all policies
enum access { READ, WRITE };
bool load_policy(const char *file); // false after a line on stderr that names the place
bool has_policy(void);
bool allows_method(const struct method *method); // without refusing
bool check_method(const struct method *method);
bool check_place(const char *real_path, enum access access); // a path without links and dots
bool denies_places(enum access access); // any at all
bool check_program(const json_t *argv, bool has_variables);
const char *check_user(const char *name); // NULL: the default one
json_t *policy_info(void);
enum audit { AUDIT_SYSLOG = 1, AUDIT_KMSG = 2, AUDIT_PORT = 4 };
extern unsigned audits;

// paths.c: open what a policy allows; -1 after `refuse`. Only regular files, or a directory to list.
// OPEN_MAKE makes a missing file with MODE and OPEN_EMPTY empties an old one.
enum { OPEN_MAKE = 1, OPEN_EMPTY = 2, OPEN_DIRECTORY = 4 };
int open_allowed(const char *path, enum access access, int how, mode_t mode);

// rights.c, for the children. Become a user with its groups, for good; false after `refuse`.
struct account {
  uid_t uid;
  gid_t gid;
  char name[256], home[MAX_PATH];
};
bool find_account(const char *name, struct account *account);
bool become(const struct account *account);
bool keep_capabilities(uint64_t kept); // give up all others, for good

// paths.c: whether a component is `..`.
bool has_dots(const char *path);

// Handlers: system.c, network.c, disks.c, metrics.c, users.c, files.c, list.c, clock.c, power.c,
// freeze.c, main.c
handler ping, get_agent_info, get_system_info, get_network_info, get_disk_usage, get_metrics;
handler get_users;
handler file_read, file_write, list_directory, set_time, shutdown_machine, reboot_machine;
handler sync_filesystems, freeze_filesystems, thaw_filesystems;

// exec.c: the program of exec_command, in a child that answers every request for it over SOCKET until it
// may be forgotten. NUMBER is the agent's own of it, ID that of the first request. Never returns.
void run_program(const json_t *params, int number, const char *id, int socket)
    __attribute__((noreturn));

// answers.c: what a child sends the first process, over its socket: a head, and the answer as a line
// unless the ID is empty, that of a notification. False if nobody reads any more.
struct head {
  int32_t code; // OK, the error's, or ENDED: a program has ended that nobody waits for
  char id[MAX_ID];
};
#define ENDED 1
bool send_result(int fd, const char *id, json_t *result, const struct bytes bytes[MAX_BYTES]);
bool send_refusal(int fd, const char *id);
bool send_ended(int fd);
// What the first process sends the child of a program: get_process, or kill_process, with that id.
struct ask {
  char what; // 'G' or 'K'
  char id[MAX_ID];
};
// What a child does once its answer is on its way, or NULL.
extern void (*afterwards)(void);
// The same answers as text, from the first process; the caller's to free, or NULL.
char *result_line(const char *id, json_t *result);
char *refusal_line(const char *id);
enum code refused_code(void);

// --init=busybox or systemd: how PID 1 is told to end the machine (power.c).
enum init { INIT_AUTO, INIT_SYSTEMD, INIT_BUSYBOX };
extern enum init init;

#endif
