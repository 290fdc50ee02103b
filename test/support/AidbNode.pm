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
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep);

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

# Kills the postmaster and all its children with SIGKILL, as the end of the machine would; start() brings it back. When
# the postmaster may have been killed already, give the children it had.
sub crash {
	my ($self, @backends) = @_;
	my $postmaster = $self->{_pid};
	push @backends, $self->children;
	$self->kill9;
	kill 'KILL', @backends;
	wait_gone($_) for @backends;
	wait_reaped($postmaster) if defined $postmaster;
	return;
}

# Kills one backend with SIGKILL, so that the postmaster restarts all others, and waits until the server answers again.
sub crash_backend {
	my ($self, $pid) = @_;
	kill 'KILL', $pid;
	wait_gone($pid);
	$self->poll_query_until('postgres', 'SELECT true') or die 'the server did not come back';
	return;
}

# Process ids of the postmaster's children.
sub children {
	my ($self) = @_;
	my $postmaster = $self->{_pid};
	my @children;
	for my $file (glob '/proc/[0-9]*/stat') {
		open my $in, '<', $file or next;
		my ($pid, $parent) = (<$in> // '') =~ /^(\d+) \(.*\) \S (\d+)/;
		push @children, $pid if defined $parent && $parent == $postmaster;
	}
	return @children;
}

sub wait_for {
	my ($condition, $failure) = @_;
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default) {
		return if $condition->();
		sleep 0.01;
	}
	die $failure;
}

# Waits until a process has ended.
sub wait_gone {
	my ($pid) = @_;
	return wait_for(sub { !-d "/proc/$pid/cwd/." }, "process $pid is still there");
}

# Waits until its number is free, too: a server that starts asks for the number of the one before it.
sub wait_reaped {
	my ($pid) = @_;
	return wait_for(sub { !-d "/proc/$pid" }, "process $pid is still there");
}

1;
