# A real S3-compatible service on loopback for TAP tests (see s3-server), which ends with the test:
#
#   my $s3 = AidbS3->start('bucket');
#   local %ENV = (%ENV, $s3->environment);     # for programs that use it
#   $s3->address;                              # of loopback: HOST:PORT
#   $s3->break; $s3->mend;                     # what keeps the objects is away: requests give 503
package AidbS3;

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my @running;

END { $_->stop for @running }

sub start {
	my ($class, @buckets) = @_;
	my $place = PostgreSQL::Test::Utils::tempdir();
	my $log = "$PostgreSQL::Test::Utils::log_path/s3.log";
	my $self = bless { place => $place, output => '' }, $class;
	$self->{run} = IPC::Run::start([ '../../support/s3-server', $place, @buckets ], '<', \undef, '>', \$self->{output}, '2>>', $log);
	push @running, $self;
	my $until = time + 150;
	while ($self->{output} !~ m{ready http://(\S+)\n}) {
		die "the S3 server does not come up:\n" . PostgreSQL::Test::Utils::slurp_file($log) if time > $until or !$self->{run}->pumpable;
		$self->{run}->pump_nb;
		sleep 0.02;
	}
	($self->{address}) = $self->{output} =~ m{ready http://(\S+)\n};
	return $self;
}

sub address { return $_[0]{address} }

# For programs; `address` may be that of a proxy before it.
sub environment {
	my ($self, $address) = @_;
	$address //= $self->{address};
	return (AWS_ACCESS_KEY_ID => 'aidb:test', AWS_SECRET_ACCESS_KEY => 'testing', AWS_ENDPOINT_URL => "http://$address");
}

sub command_of {
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/cmdline" or return '';
	local $/ = undef; # it has a program in it
	return <$in> // '';
}

# The process that keeps the objects.
sub keepers {
	my ($self) = @_;
	my $word = "$self->{place}/etc\0object-server";
	return grep { index(command_of($_), $word) >= 0 } map { m{/proc/(\d+)$} } glob '/proc/[0-9]*';
}

sub break { my ($self) = @_; kill 'STOP', $self->keepers; return }

sub mend { my ($self) = @_; kill 'CONT', $self->keepers; return }

sub stop {
	my ($self) = @_;
	my $run = delete $self->{run} or return;
	$self->mend;
	$run->signal('TERM');
	$run->finish;
	return;
}

1;
