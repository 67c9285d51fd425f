// SPDX-License-Identifier: Apache-2.0
// What the guest's programs share. The guest is not trusted: nothing here protects the host.
#ifndef WAGGLE_H
#define WAGGLE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

// Where things are once the image is the root: the kit lies under /.waggle.
#define KIT "/.waggle"
#define KIT_CGROUP KIT "/cgroup/run"
#define KIT_IDENTITY KIT "/run/identity"
#define KIT_ENVIRONMENT KIT_IDENTITY "/environment"
#define KIT_ACCOUNT KIT_IDENTITY "/account"
#define KIT_NOTICE KIT_IDENTITY "/notice" // what the user is told once
#define KIT_HUNG_UP KIT "/run/hung-up"    // when PID 1 ended old connections: nanoseconds
#define MAX_ENVIRONMENT (64u << 10) // bytes of variables; the host sends no more

#define SANDBOX_ID 1000
#define SANDBOX_HOME "/home/sandbox"

#define MAX_USER 255 // bytes of what an image says its user is
#define MAX_PATH 4096
#define MAX_GROUPS 64

// Who programs run as and where they start. init writes it, as it is, and each session reads it.
struct account {
  unsigned uid, gid, group_count;
  gid_t groups[MAX_GROUPS];
  char name[64], home[MAX_PATH];
  char directory[MAX_PATH]; // where programs start
  char shell[MAX_PATH];     // the image's own, or empty
};

// Print "waggle: WHAT: strerror" on stderr.
void complain(const char *what);

// Create or open PATH, write SIZE bytes and close; false (and complain) when that fails.
bool write_file(const char *path, int flags, mode_t mode, const void *data, size_t size);
bool write_text(const char *path, const char *text);

long long nanoseconds(const struct timespec *time);

// Read or write exactly SIZE bytes; false at end of file or on error.
bool read_exactly(int fd, void *buffer, size_t size);
bool write_exactly(int fd, const void *data, size_t size);

// init.c steps, in the order in which they run. Each returns false when the guest cannot boot.
bool mount_everything(void);
bool image_becomes_root(void);
bool install_identity(const char *device);
bool install_account(void);
bool network_up(void);

// users.c: who "user[:group]" is; false, and nothing changed, when there is no such user or group.
bool find_account(struct account *account, const char *wanted, const char *passwd,
                  const char *group);
// Whether a line of TEXT begins with NAME and a colon.
bool has_name(const char *text, const char *name);

// Become that user with all its groups, for good; false when that fails.
bool assume(const struct account *account);

// Listen for SSH wherever a host could call; a door that cannot be opened is -1, as poll wants it.
#define DOORS 2
void open_doors(struct pollfd doors[DOORS]);
// Whether a connection comes from the host and not from code inside the guest.
bool from_outside(int connection);

// ports.c: open the console's port of that name for good; -1 while (or where) there is none.
int open_port(const char *name);

// server.c: give a connection to a dropbear; take note that a process has ended.
void serve(int connection);
void server_ended(pid_t pid);
// Whether every connection has ended and a dropbear waits for the next; starts that if need be.
bool server_is_settled(void);
// Wait for that, for some seconds at most: the machine is about to be frozen.
void settle(void);
// End all connections and what they hold, as forwarded ports: the host has given them up. What runs
// over them goes on. Bounded.
void hang_up(void);

// Install records from FD until their end; false when one is malformed or cannot be installed.
bool install_records(int fd, bool is_renewal);

// renew.c: the port over which the host renews a copied machine, or -1; do what it sends.
int renewal_port(void);
void renew(void);

// Open the agent's channel to the host, if the machine has one; PID 1 keeps it from then on.
bool has_agent_port(void);
// Run a guest agent on that channel until either of them ends. In a process of its own, in the kit.
void serve_agent(void) __attribute__((noreturn));

// Accept SSH connections for ever, reaping whatever ends and keeping the agent alive.
void supervise(void) __attribute__((noreturn));

#endif
