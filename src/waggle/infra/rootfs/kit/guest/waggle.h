// SPDX-License-Identifier: Apache-2.0
// What the guest's programs share. The guest is not trusted: nothing here protects the host.
#ifndef WAGGLE_H
#define WAGGLE_H

#include <poll.h>
#include <signal.h>
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
#define KIT_NOTICE KIT_IDENTITY "/notice" // what the user reads once
#define KIT_NETWORK KIT_IDENTITY "/network" // empty without one (ranges.c)
#define MAX_ENVIRONMENT (64u << 10) // bytes of variables; the host sends no more
#define KIT_MERGED "/merged"     // where the root to be is put together
#define CODE "/run/code"         // code of runs, in memory
#define LENGTH(array) (sizeof(array) / sizeof *(array))

#define RUNTIME_DIRECTORY "/run/user/%u"
#define CONTAINERS "/var/lib/containers" // on the scratch file system itself (root.c)
#define USER_CONTAINERS CONTAINERS "/user"

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

// clock.c: how long the machine has run, without the time in which it was frozen.
long long nanoseconds(void);
long long milliseconds(void);
time_t seconds(void);

// Read or write exactly SIZE bytes; false at end of file or on error.
bool read_exactly(int fd, void *buffer, size_t size);
bool write_exactly(int fd, const void *data, size_t size);
// Give FD to the process at the other end of a socket of packets; false if it takes none now.
bool hand_over(int socket, int fd);

// init.c steps, in the order in which they run. Each returns false when the guest cannot boot.
bool mount_everything(void);
bool network_up(void);
bool devices_ready(void);
bool image_becomes_root(void);
bool install_identity(const char *device);
bool install_account(void);

struct mount_point {
  const char *source, *target, *type, *options;
  unsigned long flags;
};
// Mount them in turn; false (and complain) at the first that fails.
bool mount_all(const struct mount_point *points, size_t count);
// cgroups.c: bound what all runs together use, and have them see no other part of the hierarchy.
void limit_sandbox(void);
// root.c: make a directory in place of what else is there; an old one has the WANTED bits, too.
void make_directory(const char *path, mode_t mode, mode_t wanted, bool may_be_link);
// modules.c: have programs and the kernel find the kernel's modules, if it has any.
void offer_modules(void);
bool has_modules(void);

// users.c: who "user[:group]" is; false, and nothing changed, when there is no such user or group.
bool find_account(struct account *account, const char *wanted, const char *passwd,
                  const char *group);
// Whether a line of TEXT begins with NAME and a colon.
bool has_name(const char *text, const char *name);
// Whether TEXT, a file of users or of groups, has a name for that id.
bool has_id(const char *text, unsigned id);
// Write PASSWD with HOME as that user's home directory; false when it has no such user or no room.
bool with_home(const char *passwd, unsigned uid, const char *home, char *to, size_t size);

// home.c: have the user have a home directory, and where programs put what lives with the machine.
// HOME of the account may change; true if the file of users ought to say so.
bool choose_home(struct account *account);
void make_places(const struct account *account);

// hosts.c: give the machine a name and have /etc/hosts know it, beside what is there.
void set_hostname(const char *name, size_t size);
// Put DATA in the place of a plain file without making another one, or of whatever else is there.
void overwrite(const char *path, mode_t mode, const char *data, size_t size);
// What programs look for that is the machine's, and not the image's.
void offer_settings(const struct account *account);
// Have programs ask the name server that there is, if they asked the one that there was.
void offer_names(void);

// Become that user with all its groups, for good; false when that fails.
bool assume(const struct account *account);

// Listen for SSH wherever a host could call; a door that cannot be opened is -1, as poll wants it.
// The one at the network card is opened earlier, where the card is.
#define DOORS 2
#define CARD_ADDRESS "10.0.2.15"
void open_card_door(void);
void open_doors(struct pollfd doors[DOORS]);
// Whether a connection comes from the host and not from code inside the guest.
bool from_outside(int connection);

// server.c: give a connection to a dropbear; have one wait; take note that a process has ended.
void serve(int connection);
bool keep_spare(void); // for the next connection: whether it does
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

// renew.c: the channel over which the host renews a copied machine; do what it sends.
void watch_renewal(struct pollfd at[2]);
void serve_renewal(const struct pollfd at[2]);

// ending.c: block the signal that asks for the end of the machine, but for who waits for it; note
// that the host asks, with the milliseconds that it gives programs; whether somebody has; end it.
void expect_end(sigset_t *blocked);
bool plan_end(const char *data, size_t size);
bool end_is_due(void);
void end_machine(void) __attribute__((noreturn));
// Remove what belonged to the machine that had this disk before, and died.
void forget_last_life(void);

// agent.c: what a host allows the guest agent beyond the kit's policy, a policy of its own. Before the
// first agent, or for the next one.
bool narrow_agent(const char *data, size_t size);
// Have an agent run once there is a channel for it; false if it cannot be started now.
bool keep_agent(void);
bool has_agent(void);
void agent_ended(pid_t pid);
void restart_agent(void); // one that does not answer
// Its channel; whether another agent is to be there at once.
void watch_agent(struct pollfd at[2]);
bool serve_agent(const struct pollfd at[2]);

// Accept SSH connections for ever, reaping whatever ends and keeping the agent alive.
void supervise(void) __attribute__((noreturn));

#endif
