#include "admin/local.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 600000 /* for PostgreSQL to start or stop */
#define STEP_MS 20
#define SERVED "SQL over the cluster is served at: "

/* ---- The coordinator's program ----------------------------------------------------------------------------- */

/* That of the folder where this program is, else that of the PATH. */
static void find_program(char path[PATH_MAX]) {
	ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - 32);
	char *name;

	path[size > 0 ? size : 0] = '\0';
	name = strrchr(path, '/');
	strcpy(name != NULL ? name + 1 : path, "aidb_coordinator");
	if (access(path, X_OK) != 0) {
		strcpy(path, "aidb_coordinator");
	}
}

/* In the child. */
static void become_coordinator(const char *directory, const aidb_local_options *options, bool init) {
	char program[PATH_MAX], data[PATH_MAX + 8];
	char *words[8] = {program, data};
	int count = 2;

	find_program(program);
	snprintf(data, sizeof(data), "--data=%s", directory);
	if (init) {
		words[count++] = "--init";
	}
	if (options->port != NULL) {
		words[count++] = (char *)options->port;
	}
	if (options->listen != NULL) {
		words[count++] = (char *)options->listen;
	}
	if (options->bindir != NULL) {
		words[count++] = (char *)options->bindir;
	}
	execvp(program, words);
	fprintf(stderr, "aidb-admin: cannot run %s: %s\n", program, strerror(errno));
	_exit(127);
}

/* The directory from the root on; false when it is too long. */
static bool whole_path(const char *directory, char path[PATH_MAX]) {
	char here[PATH_MAX];

	if (directory[0] == '/') {
		return snprintf(path, PATH_MAX, "%s", directory) < PATH_MAX;
	}
	return getcwd(here, sizeof(here)) != NULL && snprintf(path, PATH_MAX, "%s/%s", here, directory) < PATH_MAX;
}

int aidb_local_init(const char *directory, const aidb_local_options *options) {
	char path[PATH_MAX];
	int status = -1;
	pid_t child;

	if (!whole_path(directory, path)) {
		fputs("aidb-admin: the directory's name is too long\n", stderr);
		return 1;
	}
	fflush(stdout);
	child = fork();
	if (child == 0) {
		become_coordinator(path, options, true);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
		return 1;
	}
	printf("the coordinator's server is in %s\nNext: aidb-admin cluster start %s\n", path, path);
	return 0;
}

/* ---- In the background ------------------------------------------------------------------------------------- */

/* The process that works in the directory; 0: none does. */
static pid_t find_coordinator(const char *path) {
	char name[PATH_MAX + 32], text[32] = "";
	pid_t found = 0;
	int file;

	snprintf(name, sizeof(name), "%s/coordinator.pid", path);
	file = open(name, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		return 0;
	}
	if (flock(file, LOCK_SH | LOCK_NB) != 0 && read(file, text, sizeof(text) - 1) > 0) {
		found = (pid_t)strtol(text, NULL, 10);
	}
	close(file);
	return found;
}

/* In the child: its output goes to coordinator.log. */
static void become_daemon(const char *path, const aidb_local_options *options) {
	char name[PATH_MAX + 32];
	int log, nothing = open("/dev/null", O_RDONLY);

	(void)mkdir(path, 0700);
	snprintf(name, sizeof(name), "%s/coordinator.log", path);
	log = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (log < 0) {
		fprintf(stderr, "aidb-admin: cannot write \"%s\": %s\n", name, strerror(errno));
		_exit(1);
	}
	setsid();
	dup2(nothing, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	become_coordinator(path, options, false);
}

static long log_size(const char *path) {
	char name[PATH_MAX + 32];
	FILE *log;
	long size = 0;

	snprintf(name, sizeof(name), "%s/coordinator.log", path);
	log = fopen(name, "r");
	if (log != NULL) {
		size = fseek(log, 0, SEEK_END) == 0 ? ftell(log) : 0;
		fclose(log);
	}
	return size;
}

/* What the log has from `from` on. */
static void read_log(const char *path, long from, char *text, size_t capacity) {
	char name[PATH_MAX + 32];
	FILE *log;

	text[0] = '\0';
	snprintf(name, sizeof(name), "%s/coordinator.log", path);
	log = fopen(name, "r");
	if (log != NULL) {
		size_t size = fseek(log, from, SEEK_SET) == 0 ? fread(text, 1, capacity - 1, log) : 0;

		text[size] = '\0';
		fclose(log);
	}
}

/* Until it says where it serves, or ends. */
static int wait_until_served(const char *path, pid_t child, long from) {
	char text[4096], *served;

	for (int waited = 0; waited < WAIT_MS; waited += STEP_MS) {
		bool ended = waitpid(child, NULL, WNOHANG) != 0;

		read_log(path, from, text, sizeof(text));
		served = strstr(text, SERVED);
		if (served != NULL && strchr(served, '\n') != NULL) {
			served += strlen(SERVED);
			served[strcspn(served, "\n")] = '\0';
			printf("the coordinator runs; its messages are in %s/coordinator.log\n" SERVED
				   "%s\nNext: export AIDB_CLUSTER='%s'; aidb-admin status\n",
				   path, served, served);
			return 0;
		}
		if (ended) {
			fprintf(stderr, "aidb-admin: the coordinator did not start:\n%s", text);
			return 1;
		}
		(void)poll(NULL, 0, STEP_MS);
	}
	fputs("aidb-admin: the coordinator has not come up; see coordinator.log\n", stderr);
	return 1;
}

int aidb_local_start(const char *directory, const aidb_local_options *options) {
	char path[PATH_MAX];
	pid_t child;
	long from;

	if (!whole_path(directory, path)) {
		fputs("aidb-admin: the directory's name is too long\n", stderr);
		return 1;
	}
	if (find_coordinator(path) != 0) {
		printf("the coordinator of %s runs already\n", path);
		return 0;
	}
	from = log_size(path);
	child = fork();
	if (child == 0) {
		become_daemon(path, options);
	}
	if (child < 0) {
		fprintf(stderr, "aidb-admin: cannot start a process: %s\n", strerror(errno));
		return 1;
	}
	return wait_until_served(path, child, from);
}

int aidb_local_stop(const char *directory, const aidb_local_options *options) {
	char path[PATH_MAX];
	pid_t found = whole_path(directory, path) ? find_coordinator(path) : 0;

	(void)options;
	if (found == 0) {
		printf("no coordinator runs in %s\n", directory);
		return 0;
	}
	if (kill(found, SIGTERM) != 0) {
		fprintf(stderr, "aidb-admin: cannot stop process %ld: %s\n", (long)found, strerror(errno));
		return 1;
	}
	for (int waited = 0; waited < WAIT_MS; waited += STEP_MS) {
		if (find_coordinator(path) == 0) {
			puts("the coordinator and its server have stopped");
			return 0;
		}
		(void)poll(NULL, 0, STEP_MS);
	}
	fputs("aidb-admin: the coordinator does not stop; see server.log there\n", stderr);
	return 1;
}
