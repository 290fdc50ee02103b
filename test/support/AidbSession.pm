# One psql that stays connected, driven statement by statement; quick enough for loops of thousands.
#
#   my $session = AidbSession->connect($node) or ...;     # undef: the server refuses
#   my $state = $session->run('UPDATE t SET v = 1');      # SQLSTATE, '00000' when it worked; undef: connection lost
#   my @rows = $session->rows('SELECT k, v FROM t');      # each 'k|v'; dies when it fails
#   my $state = $session->transaction('UPDATE ...', 'INSERT ...');
#
# To be used in forked processes too. A statement that takes longer than the timeout of the test tools is an error.
package AidbSession;

use strict;
use warnings;
use IO::Handle;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

sub connect {
	my ($class, $node) = @_;
	pipe my $from_test, my $to_psql or die "pipe: $!";
	pipe my $from_psql, my $to_test or die "pipe: $!";
	my $connection = $node->connstr('postgres');
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		# by number, since the test tools have tied the handles
		POSIX::dup2(fileno $from_test, 0);
		POSIX::dup2(fileno $to_test, 1);
		POSIX::dup2(POSIX::open('/dev/null', POSIX::O_WRONLY()), 2);
		exec 'psql', '-XAtq', '-d', $connection or POSIX::_exit(127);
	}
	close $_ for $from_test, $to_test;
	$to_psql->autoflush(1);
	my $self = bless { pid => $pid, in => $to_psql, out => $from_psql, buffer => '', owner => $$ }, $class;
	return defined $self->run('SELECT 1') ? $self : undef;
}

# connect_until NODE: tries until the server accepts connections.
sub connect_until {
	my ($class, $node) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline) {
		my $self = $class->connect($node);
		return $self if $self;
		sleep 0.02;
	}
	die 'the server does not come back';
}

# Runs SQL, a single message; what it printed is then in {output}.
sub run {
	my ($self, $sql) = @_;
	return $self->start($sql) ? $self->read_end : undef;
}

# The same in two halves: read_end waits for the end of what was started.
sub start {
	my ($self, $sql) = @_;
	local $SIG{PIPE} = 'IGNORE';
	$self->{output} = '';
	return print({ $self->{in} } "$sql;\n\\echo <end> :SQLSTATE\n") || $self->lose;
}

sub is_running {
	my ($self) = @_;
	return !IO::Select->new($self->{out})->can_read(0);
}

sub read_end {
	my ($self) = @_;
	my $select = IO::Select->new($self->{out});
	for (;;) {
		if ($self->{buffer} =~ s/\A(.*?)^<end> (\w*)\n//ms) {
			$self->{output} = $1;
			return $2 ne '' ? $2 : $self->lose; # none: the error is psql's own
		}
		die 'no answer from psql' unless $select->can_read($PostgreSQL::Test::Utils::timeout_default);
		return $self->lose unless sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
	}
}

# Waits until the server ends the connection, as it does with all of them some time after one of its processes has died.
sub wait_lost {
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (defined $self->run('SELECT 1')) {
		die 'the server does not end the connection' if time > $deadline;
		sleep 0.01;
	}
	return;
}

sub lose {
	my ($self) = @_;
	$self->close;
	return;
}

sub rows {
	my ($self, $sql) = @_;
	my $state = $self->run($sql) // die "connection lost in: $sql";
	die "SQLSTATE $state in: $sql" unless $state eq '00000';
	return split /\n/, $self->{output};
}

# BEGIN, the statements and COMMIT in one message; the SQLSTATE of what failed, then it is rolled back.
sub transaction {
	my ($self, @statements) = @_;
	my $state = $self->run(join '\; ', 'BEGIN', @statements, 'COMMIT');
	$self->run('ROLLBACK') if defined $state && $state ne '00000';
	return $state;
}

sub close {
	my ($self) = @_;
	return unless defined $self->{pid} && $self->{owner} == $$;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "\\q\n"; # a forked process may hold the pipe open
	CORE::close $_ for $self->{in}, $self->{out};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

sub DESTROY {
	local ($., $@, $!, $^E, $?);
	$_[0]->close;
	return;
}

1;
