// SPDX-License-Identifier: Apache-2.0
// What the files of the agent's first process share: the channel to the host, the children, the loop.
#ifndef SERVER_H
#define SERVER_H

#include "agent.h"

#include <sys/epoll.h>

#define MAX_CHILDREN 64
#define MAX_WAITING 4 // answers that one child owes

// channel.c: the port. Open it by path, or by the name PORT_NAME for NULL; -1 after a line on stderr.
int open_channel(const char *path);
// Say over it that there is an agent. It takes the place of another, with all that was for its host.
void use_channel(int fd);
// Take note of an event; false when the channel has ended for good. `has_host` tells whether there is
// a host at the other end, as far as anybody knows.
bool channel_event(uint32_t events);
bool has_host(void);
// Read what there is once; true if something was read.
bool read_in(void);
// The next whole line that was read, with a NUL for its end, or NULL; valid until the next call. A
// line that is too long is returned once, as the empty text with `*is_too_long`.
char *next_line(size_t *size, bool *is_too_long);
// Room for more bytes to the host, and a place to put them; then how many there are of them now.
size_t room_out(char **place);
void put_out(size_t size);
// Put a whole line where there is room for it; false and nothing otherwise.
bool put_line(const char *line);
// Write what can be written now; true if something was.
bool flush_out(void);

// source.c: have channels come over that socket, one after the other. Use the last that has come; false
// once none comes any more.
void await_channels(int socket);
bool awaits_channels(void);
bool take_channels(void);

// main.c: the notification `agent_started`. It is for a host that may not know of this agent yet, so it
// begins with an end of what an earlier agent may have left half sent.
extern const char STARTED[];

// children.c: who answers what. A child has an answer to relay, or works, or its time is over.
struct child {
  pid_t pid; // 0: a free place
  int socket;
  const struct method *method;
  int number; // of a program, or 0
  int64_t more_due; // when more of what it has begun to say must come, or 0
  bool is_readable, has_ended, is_told, is_late, is_reaped; // told: of its end
  int waiting_count; // answers that it owes
  struct waiting {
    char id[MAX_ID]; // empty: nobody hears it
    const struct method *method;
    int64_t began, due;
    char subject[128];
  } waiting[MAX_WAITING];
};
extern struct child children[MAX_CHILDREN];
// Have the request answered by a child; false after `refuse`.
bool start_child(const struct method *method, const json_t *params, const char *id);
bool ask_program(const struct method *method, const json_t *params, const char *id);
void reap_children(void);
void end_late_children(void);
int64_t next_deadline(void); // INT64_MAX: none
// It owes nothing any more: close its socket, and free its place once it has ended.
void let_go(struct child *child);

// relay.c: pass on what a child has written; true if something was. Lines stay whole.
bool relay(void);
bool is_in_line(void);
// Every child's answers are for nobody any more: the host has gone.
void forget_host(void);

// What a handler that returns nothing without a reason has met.
#define TOO_MUCH "It takes more memory than the agent may have."

// requests.c: carry out one line of the host.
void take_request(char *line, size_t size);
void refuse_line(enum code code, const char *message);

// audit.c: note a request that was answered.
void open_audit(void);
void note(const struct method *method, const char *subject, int64_t began, int32_t code);
const char *subject_of(const json_t *params); // a path, a program, or nothing

// loop.c: serve for ever, or until the channel ends; with a SOURCE, one after the other of those that
// come over that socket. Watch a descriptor by edges, and no more.
void watch(int fd, void *whose);
void unwatch(int fd);
int serve(int channel, int source);

#endif
