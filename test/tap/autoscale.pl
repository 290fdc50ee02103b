# A group that gets a caching read node when it is read much, and loses it when it is not: by the coordinator, with a command that makes
# servers. A dry run writes down what would be done; where a node does not answer nothing is.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use AidbSession;
use IPC::Run;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_, conf => "aidb.row_cache = '16MB'") } qw(a spare);
my $temporary = PostgreSQL::Test::Utils::tempdir();

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

# The command: there is one spare server.
open my $command, '>', "$temporary/servers" or die;
print {$command} "#!/bin/sh\necho \"\$@\" >>$temporary/calls\nif [ \"\$1\" = remove ]; then exec pg_ctl -D '" . $node{spare}->data_dir . "' -m immediate stop >/dev/null; fi\n[ -e $temporary/none ] && exit 1\necho 'spare " . $node{spare}->conninfo . "'\n";
close $command;
chmod 0755, "$temporary/servers";

sub calls { return -e "$temporary/calls" ? slurp_file("$temporary/calls") : '' }

ask("SELECT aidb.add_node('a', '" . $node{a}->conninfo . "'), aidb.add_group('one', 'a', false)");
my $daemon = AidbDaemon->run('coordinator', './aidb_coordinator', '--conninfo', $catalog->conninfo, '--interval', 200, '--timeout', 1000, '--lease', 2000,
	"--scale-command=$temporary/servers", '--scale-interval', 200);
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE state = 'up'}, 1);
$catalog->wait_for(q{SELECT count(*) FROM aidb.coordinator WHERE until > clock_timestamp()}, 1);
ask('CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb_cluster; INSERT INTO item SELECT i, i FROM generate_series(1, 1000) i');

# Reads, until the file is there.
sub start_reads {
	unlink "$temporary/stop";
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		my $session = AidbSession->connect($node{a});
		until (-e "$temporary/stop") { $session->run('SELECT count(*) FROM item i, generate_series(1, 20) WHERE id = generate_series') }
		POSIX::_exit(0);
	}
	return $pid;
}

sub stop_reads {
	my ($pid) = @_;
	open my $stop, '>', "$temporary/stop" or die;
	close $stop;
	waitpid $pid, 0;
	return;
}

my $settings = q{target_reads => 200, min_hit_rate => 0, up_after => '0.5 s', down_after => '1 s', pause => '1 s'};
my ($code, undef, $error) = $catalog->psql('postgres', "SELECT aidb.set_autoscale('one', 2, 1, $settings)");
like($error, qr/check constraint/, 'the least is not more than the most');
my $reader = start_reads();
ask("SELECT aidb.set_autoscale('one', 0, 1, $settings, dry_run => true)");
$catalog->wait_for(q{SELECT count(*) > 0 FROM aidb.scaling}, 't');
like(ask('SELECT action, dry_run, caches, reason FROM aidb.scaling ORDER BY 1 LIMIT 1'), qr{^add\|t\|0\|\d+ reads/s on 1 nodes, \d+\.\d ms: 1 caching read nodes are right, and there are 0; not done: this is a dry run$}, 'a dry run says what would be done');
is(calls(), '', 'and does it not');
is(ask('SELECT reads > 200 AND latency_ms >= 0 AND hit_rate IS NULL FROM aidb.autoscale'), 't', 'what was measured is there');

open my $none, '>', "$temporary/none" or die;
ask("SELECT aidb.set_autoscale('one', 0, 1, $settings)");
$catalog->wait_for(q{SELECT count(*) > 0 FROM aidb.scaling WHERE reason LIKE '%did not give a server'}, 't');
ok(1, 'a command that fails is told of');
is(ask('SELECT count(*) FROM aidb.nodes'), 1, 'and nothing has changed');
unlink "$temporary/none";
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE role = 'cache'}, 1);
$node{spare}->wait_for('SELECT state FROM aidb.node_status()', 'streaming');
is(ask(q{SET aidb.read_from = 'cache'; SELECT sum(id) FROM item WHERE id IN (1, 2, 3)}), 6, 'the group has a caching read node, which serves');
my $shown;
IPC::Run::run([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'autoscale' ], '>', \$shown);
like($shown, qr/one +0 +1 +1 +200 .* acts .*What was done.* add .*node spare is added/s, 'aidb-admin shows it');
like(ask(q{SELECT string_agg(message, ' ') FROM aidb.events}), qr/group one: add a caching read node: .*; node spare is added/, 'as events tell');
sleep 2;
is(ask(q{SELECT count(*) FROM aidb.nodes WHERE role = 'cache'}), 1, 'and no more than it may have');

# Nobody knows the load while a node is silent.
kill 'STOP', $node{spare}->processes;
stop_reads($reader);
$catalog->wait_for(q{SELECT finding LIKE '%missing data' FROM aidb.autoscale}, 't');
sleep 2;
is(ask(q{SELECT count(*) FROM aidb.nodes WHERE role = 'cache'}), 1, 'a node that does not answer is not removed');
kill 'CONT', $node{spare}->processes;
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE role = 'cache'}, 0);
is(ask('SELECT count(*) FROM aidb.nodes'), 1, 'without reads the node goes');
$catalog->wait_for(q{SELECT count(*) > 0 FROM aidb.scaling WHERE action = 'remove' AND reason LIKE '%node spare is removed'}, 't');
is($node{a}->safe_psql('postgres', 'SELECT count(*) FROM aidb.stream_slots()'), 0, 'no log is kept for it any more');
ok(!-e $node{spare}->data_dir . '/postmaster.pid', 'its server is removed');
$node{spare}->{_pid} = undef; # by the command, and not by the test
like(calls(), qr/^(?:add one\n)+remove one spare\n$/, 'and the command has heard of it');
ask(q{SELECT aidb.stop_autoscale('one')});
is(ask('SELECT count(*) FROM aidb.autoscale'), 0, 'that can be ended');
ok($daemon->stop, 'the coordinator stops');

done_testing();
