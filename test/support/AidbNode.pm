# A PostgreSQL server with AiDb for TAP tests. It is a PostgreSQL::Test::Cluster with settings of its own:
#
#   my $node = AidbNode->launch('main', memory => '32MB', fsync => 'on', conf => "work_mem = '1MB'");
#   is($node->safe_psql('postgres', 'SELECT 1'), '1', 'it answers');
#   $node->crash; $node->start;
#
# The server has the extension in database postgres and is stopped when the test ends, however it ends.
package AidbNode;

use strict;
use warnings;
use parent -norequire, 'PostgreSQL::Test::Cluster';
use Cwd qw(realpath);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my %defaults = (memory => '32MB', fsync => 'off', conf => '');

# create NAME, OPTION => VALUE...: a server that is not started yet. Options: memory (of AiDb), fsync, conf (more lines
# for postgresql.conf).
sub create {
	my ($class, $name, %given) = @_;
	my %options = (%defaults, %given);
	my $self = bless PostgreSQL::Test::Cluster->new($name), $class;
	$self->init;
	$self->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'aidb'
aidb.memory = '$options{memory}'
fsync = $options{fsync}
max_prepared_transactions = 10
restart_after_crash = on
$options{conf}
CONF
	return $self;
}

# launch NAME, OPTION => VALUE...: the same, started and with the extension.
sub launch {
	my $self = create(@_);
	$self->start;
	$self->safe_psql('postgres', 'CREATE EXTENSION aidb');
	return $self;
}

# promised NAME: a server whose data directory, which is not there, something else will make.
sub promised {
	my ($class, $name) = @_;
	return bless PostgreSQL::Test::Cluster->new($name), $class;
}

# Starts it then; it runs as others do.
sub start_promised {
	my ($self) = @_;
	$self->append_conf('postgresql.conf', "unix_socket_directories = '" . $self->host . "'\nlisten_addresses = ''\nport = " . $self->port
		  . "\naidb.memory = '32MB'\nfsync = off\nmax_prepared_transactions = 10\n");
	return $self->start;
}

# For programs that connect to its database postgres.
sub conninfo {
	my ($self) = @_;
	return 'host=' . $self->host . ' port=' . $self->port . ' dbname=postgres';
}

# Waits until the statement gives this, also over errors on the way, and returns how long it took. Dies after 90 s; a server with
# the catalog of a cluster tells what has happened there.
sub wait_for {
	my ($self, $sql, $expected) = @_;
	my $begin = time;
	while (1) {
		my (undef, $got) = $self->psql('postgres', $sql);
		return time - $begin if defined $got && $got eq $expected;
		if (time > $begin + 90) {
			my (undef, $told) = $self->psql('postgres', 'TABLE aidb.events; TABLE aidb.nodes');
			die "waited for \"$expected\" of: $sql\ngot \"" . ($got // '') . "\"\n" . ($told // '');
		}
		sleep 0.05;
	}
}

# Kills the postmaster and all its children with SIGKILL, as the end of the machine would; start() brings it back. It
# does not matter whether some of them are gone already.
sub crash {
	my ($self) = @_;
	# not kill9: the postmaster's number may be another process's by now
	$self->{_pid} = undef;
	for (my @left = $self->processes; @left; @left = $self->processes) {
		kill 'STOP', @left; # or the first death would let the others end in good order
		kill 'KILL', @left;
		wait_gone($_) for @left;
	}
	# they name a process that is a zombie until init gets to it, for which a new server would refuse to start
	unlink $self->data_dir . '/postmaster.pid', $self->host . '/.s.PGSQL.' . $self->port . '.lock';
	return;
}

# How often the postmaster has restarted all others after a crash.
sub restarts {
	my ($self) = @_;
	my @lines = slurp_file($self->logfile) =~ /all server processes terminated; reinitializing/g;
	return scalar @lines;
}

# Waits until it has done so more often than `before`: until then a backend of before the crash may still answer.
sub wait_restart {
	my ($self, $before) = @_;
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default) {
		return if $self->restarts > $before;
		sleep 0.01;
	}
	die 'the postmaster does not notice the crash';
}

# Kills one backend with SIGKILL, so that the postmaster restarts all others, and waits until the server answers again.
sub crash_backend {
	my ($self, $pid) = @_;
	my $before = $self->restarts;
	# not poll_query_until, which dies when psql ends before it has read the statement
	my @ask = ($self->installed_command('psql'), '-XAtq', '-d', $self->connstr('postgres'), '-c', 'SELECT true');
	kill 'KILL', $pid;
	$self->wait_restart($before);
	for (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default) {
		return if IPC::Run::run \@ask, '<', \undef, '>', \my $output, '2>', \my $errors;
		sleep 0.05;
	}
	die 'the server did not come back';
}

# Process ids of the server, with or without a postmaster: all have the data directory as their current one.
sub processes {
	my ($self) = @_;
	my $data = realpath($self->data_dir);
	return map { m|/proc/(\d+)/| } grep { (readlink($_) // '') eq $data } glob '/proc/[0-9]*/cwd';
}

# Whether it runs under a sanitizer, which keeps freed memory for some time.
sub is_sanitized {
	my ($self) = @_;
	return slurp_file("/proc/$self->{_pid}/maps") =~ m|/lib[a-z]*san\.|;
}

# Waits until a process has ended.
sub wait_gone {
	my ($pid) = @_;
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default) {
		return unless -d "/proc/$pid/cwd/.";
		sleep 0.01;
	}
	die "process $pid is still there";
}

1;
