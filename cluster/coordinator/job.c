#include "coordinator/job.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

bool aidb_job_start(aidb_job *job, int (*run)(void *argument), void *argument) {
	pid_t daemon = getpid(), pid = fork();

	if (pid < 0) {
		return false;
	}
	if (pid == 0) {
		signal(SIGTERM, SIG_DFL);
		signal(SIGINT, SIG_DFL);
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		_exit(getppid() == daemon ? run(argument) : 1);
	}
	job->pid = pid;
	return true;
}

bool aidb_job_has_ended(aidb_job *job, int *status) {
	int ended;

	if (job->pid == 0 || waitpid(job->pid, &ended, WNOHANG) != job->pid) {
		return false;
	}
	job->pid = 0;
	*status = WIFEXITED(ended) ? WEXITSTATUS(ended) : -1;
	return true;
}

void aidb_job_stop(aidb_job *job) {
	if (job->pid != 0) {
		kill(job->pid, SIGTERM);
		(void)waitpid(job->pid, NULL, 0);
		job->pid = 0;
	}
}
