# The cluster's daemons for TAP tests, which end with the test at the latest:
#
#   my $coordinator = AidbDaemon->coordinator($catalog, 'first');     # by default with no name of its own
#   my $exporter = AidbDaemon->exporter($node->conninfo, '--cluster');
#   HTTP::Tiny->new->get('http://127.0.0.1:' . $exporter->port . '/metrics');
#   ok($exporter->stop, 'it ends in good order'); $coordinator->kill;
package AidbDaemon;

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my @running;

END { $_->kill for @running }

sub run {
	my ($class, $log, @command) = @_;
	my $self = bless { output => '' }, $class;
	$self->{run} = IPC::Run::start(\@command, '<', \undef, '>', \$self->{output}, '2>>', "$PostgreSQL::Test::Utils::log_path/$log.log");
	push @running, $self;
	return $self;
}

# It asks often, and is soon impatient.
sub coordinator {
	my ($class, $catalog, $name) = @_;
	return $class->run($name // 'coordinator', './aidb_coordinator', '--conninfo', $catalog->conninfo, '--interval', 200, '--timeout', 1000, '--lease', 2000,
		defined $name ? ('--name', $name) : ());
}

# Of the server with this connection string; when this returns, it serves.
sub exporter {
	my ($class, $conninfo, @options) = @_;
	my $self = $class->run('exporter', './aidb_exporter', "--conninfo=$conninfo", '--listen=127.0.0.1:0', @options);
	my $until = time + 60;
	while ($self->{output} !~ /port (\d+)\n/) {
		die 'the exporter does not come up' if time > $until;
		$self->{run}->pump_nb;
		sleep 0.01;
	}
	($self->{port}) = $self->{output} =~ /port (\d+)\n/;
	return $self;
}

sub port { return $_[0]{port} }

# In good order; whether it was.
sub stop {
	my ($self) = @_;
	my $run = delete $self->{run};
	$run->signal('TERM');
	return $run->finish;
}

sub kill {
	my ($self) = @_;
	my $run = delete $self->{run};
	$run->kill_kill if $run;
	return;
}

1;
