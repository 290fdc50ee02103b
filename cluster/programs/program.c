#include "programs/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGUMENTS 24

/* In the child. */
static void become(const char *log, char *const *arguments) {
	int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (file >= 0) {
		dup2(file, STDOUT_FILENO);
		dup2(file, STDERR_FILENO);
	}
	setsid();
	execv(arguments[0], arguments);
	dprintf(STDERR_FILENO, "%s: %s\n", arguments[0], strerror(errno));
	_exit(127);
}

int aidb_program_run(const char *bindir, const char *program, const char *log, const char *const *arguments) {
	char path[PATH_MAX];
	char *words[MAX_ARGUMENTS] = {path};
	int status = -1;
	pid_t child;

	snprintf(path, sizeof(path), "%s/%s", bindir, program);
	for (int i = 0; arguments[i] != NULL && i < MAX_ARGUMENTS - 2; i++) {
		words[i + 1] = (char *)arguments[i];
	}
	child = fork();
	if (child == 0) {
		become(log, words);
	}
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {}
	return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void aidb_program_log_end(const char *log, char *text, size_t size) {
	FILE *file = fopen(log, "r");

	text[0] = '\0';
	if (file != NULL) {
		size_t got;

		(void)(fseek(file, -(long)(size - 1), SEEK_END) != 0 && fseek(file, 0, SEEK_SET) != 0);
		got = fread(text, 1, size - 1, file);
		text[got] = '\0';
		fclose(file);
	}
}
