/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands for a VMM that an operator adds: it prints SAID for --version and exits with CODE, and
 * else answers every request at api.sock with a version, ANSWER. Options of the compiler make it
 * one that lies, hangs, floods, breeds, or looks around.
 */
#include <dirent.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef CODE
#define CODE 0
#endif
#ifndef FIELD
#define FIELD "firecracker_version"
#endif

extern char **environ;

static int entries(const char *name)
{
	DIR *directory = opendir(name);
	int count = 0;

	while (directory && readdir(directory))
		count++;
	return count - 2;
}

static void look(void)
{
	struct if_nameindex *names = if_nameindex();
	struct rlimit files, data;
	int variables = 0, interfaces = 0;
	char byte;

	while (environ[variables])
		variables++;
	while (names && names[interfaces].if_index)
		interfaces++;
	getrlimit(RLIMIT_FSIZE, &files);
	getrlimit(RLIMIT_DATA, &data);
	printf("uid=%d gid=%d groups=%d privileges=%d variables=%d interfaces=%d input=%d here=%d "
	       "file=%ld data=%ld host=%d\n",
	       getuid(), getgid(), getgroups(0, NULL),
	       !prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), variables, interfaces,
	       (int)read(0, &byte, 1), entries("."), (long)files.rlim_cur, (long)data.rlim_cur,
	       access("/root/.", X_OK) == 0);
}

#ifdef BREEDS
static void *idle(void *unused)
{
	pause();
	return unused;
}

static void breed(void)
{
	pthread_attr_t small;
	pthread_t thread;
	int children = 0, threads = 0;

	for (int i = 0; i < 100; i++) {
		pid_t child = fork();

		if (child == 0)
			pause();
		children += child > 0;
	}
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 16);
	for (int i = 0; i < 2000; i++)
		threads += !pthread_create(&thread, &small, idle, NULL);
	printf("children=%d threads=%d\n", children, threads);
	fflush(stdout);
}
#endif

static int print(void)
{
#ifdef HANGS
	pause();
#endif
#ifdef LOOKS
	look();
#endif
	fputs(SAID, stdout);
	fflush(stdout);
#ifdef FLOODS
	for (int line = 0; line < 1 << 18; line++)
		puts("more and more and more and more and more and more and more");
#endif
#ifdef BREEDS
	breed();
#endif
#ifdef LEAVES
	if (fork() == 0) {
		setsid();
		pause();
	}
#endif
	return CODE;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "api.sock"};
	char answer[512], body[128], request[4096];
	int listener, client, count;

	(void)argv;
	(void)look;
	if (argc == 2)
		return print();
#ifdef ANSWER
	count = snprintf(body, sizeof body, "{\"%s\":\"%s\"}", FIELD, ANSWER);
	snprintf(answer, sizeof answer,
		 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		 "Content-Length: %d\r\n\r\n%s",
		 count, body);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4))
		return 1;
	signal(SIGPIPE, SIG_IGN);
	while ((client = accept(listener, NULL, NULL)) >= 0) {
		if (read(client, request, sizeof request) > 0 &&
		    write(client, answer, strlen(answer)) < 0)
			return 1;
		close(client);
	}
#else
	(void)address, (void)answer, (void)body, (void)request;
	(void)listener, (void)client, (void)count;
#ifdef POINTS
	if (!symlink(POINTS, "api.sock"))
		pause();
#endif
	puts("error: no hypervisor here");
#endif
	return 3;
}
