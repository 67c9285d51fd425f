// SPDX-License-Identifier: Apache-2.0
// PID 1's channels to the host: the console, what the kernel says, and those of renewals and the agent.
#ifndef WAGGLE_CHANNELS_H
#define WAGGLE_CHANNELS_H

#include <poll.h>
#include <stdbool.h>

// Vsock ports of a machine without a virtio console: two of ours, and the host's. infra/guest/vsock.py
// has the same. Only root may listen on them.
#define RENEWAL_PORT 23
#define AGENT_PORT 24
#define CONSOLE_PORT 1

// console.c: first of all, have /proc, standard streams, and a console. Whether the channels to the
// host are vsock's.
void open_console(void);
bool has_vsock_channels(void);
// Send on what was said, as far as the host reads it. The last: wait for that, for a second or two.
void pass_console(void);
void close_console(void);
// What PID 1 is to poll for it: whether it wants to be served in a second at the latest; serve it.
#define CONSOLE_PLACES 3
bool watch_console(struct pollfd at[CONSOLE_PLACES]);
void serve_console(const struct pollfd at[CONSOLE_PLACES]);

// kernel.c: say what the kernel complains of, on standard error. When to do so: whether it has to be
// later.
void open_kernel_messages(void);
void show_kernel_messages(void);
bool watch_kernel(struct pollfd *at);

// ports.c: a channel to the host, which a port of the virtio console is for good, or a connection to
// our port of vsock.
struct channel {
  const char *name;
  unsigned port;
  int listener, wire; // -1: there is none
  bool is_over;       // the host has closed its end of the virtio console's port
};
void open_channel(struct channel *channel);
// What PID 1 is to poll for it; whether that has brought another connection, or the end of the last.
void watch_channel(const struct channel *channel, bool may_read, struct pollfd at[2]);
bool channel_changes(struct channel *channel, const struct pollfd at[2]);
void drop_channel(struct channel *channel);

#endif
