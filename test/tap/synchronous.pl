# Commits that wait for a replica: nobody sees one, and no client is told of it, before the standby has it. Ten times the
# primary is killed under load and the standby promoted, and every acknowledged row is there.
use strict;
use warnings;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my ($primary, $standby) = map { AidbNode->launch($_, fsync => 'on') } qw(a b);
my $epoch = 1;

sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

sub wait_until {
	my ($condition, $what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($condition->()) {
		die "no success in waiting for: $what" if time > $deadline;
		sleep 0.02;
	}
	return;
}

# Makes the standby follow the primary, and commits wait for it.
sub join_group {
	my ($discard) = @_;
	my $conninfo = 'host=' . $primary->host . ' port=' . $primary->port . ' dbname=postgres';
	my $slot = $standby->name;
	$standby->safe_psql('postgres', "SELECT aidb.follow('$conninfo', '$slot', discard => $discard)");
	wait_until(sub {
		$standby->safe_psql('postgres', "SELECT state = 'streaming' FROM aidb.node_status()") eq 't'
	}, 'the standby to follow');
	$primary->safe_psql('postgres', "SELECT aidb.set_in_sync($epoch, '{$slot}')");
	return;
}

# Starts psql with one statement; finish_of gives what it printed on stderr.
my $sessions = 0;
sub start_statement {
	my ($sql) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/session.' . ++$sessions;
	return [ IPC::Run::start([ $primary->installed_command('psql'), '-XAtq', '-d', $primary->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>', '/dev/null', '2>', $file), $file ];
}

sub finish_of {
	my ($session) = @_;
	$session->[0]->finish;
	return slurp_file($session->[1]);
}

# All processes of a server, stopped or going on.
sub signal_all {
	my ($server, $signal) = @_;
	kill $signal, $server->processes;
	return;
}

$primary->safe_psql('postgres', <<'SQL');
SELECT aidb.become_primary();
CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb;
CREATE TABLE heap (id int);
INSERT INTO item VALUES (0, 'before');
SQL
like(error_of($primary, "SELECT aidb.set_in_sync(1, '{b}')"), qr/42704.*no slot "b"/s, 'a slot must be there');
join_group('false');
like(error_of($primary, "SELECT aidb.set_in_sync(2, '{b}')"), qr/IA002/, 'only in the present epoch');
like(error_of($primary, "SELECT aidb.stream_drop('b')"), qr/55006.*commits wait/s, 'its slot is not dropped');

# ---- Acknowledged means that the standby has it -------------------------------------------------------------------------

for my $id (1 .. 20) {
	$primary->safe_psql('postgres', "INSERT INTO item VALUES ($id, 'x')");
	# durable there; shown with the end of the window, which is the same answer
	is($standby->safe_psql('postgres', "SELECT count(*) FROM item WHERE id = $id"), '1', "row $id is there at once") if $id % 5 == 0;
}

signal_all($standby, 'STOP');
my $session = start_statement("INSERT INTO item VALUES (100, 'unknown')");
wait_until(sub { $primary->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT%')) eq '1' },
	'the insert to wait');
wait_until(sub { $primary->safe_psql('postgres', q(SELECT wait_event FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT%')) eq 'AidbReplica' },
	'pg_stat_activity to say what it waits for');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id = 100'), '0', 'nobody sees a commit that waits');
$primary->safe_psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO item%' AND pid <> pg_backend_pid()));
like(finish_of($session), qr/outcome of the transaction is unknown/, 'who is cancelled is told that the outcome is unknown');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id = 100'), '0', 'and still nobody sees it');
my $waiting = start_statement("INSERT INTO item VALUES (100, 'second') ON CONFLICT DO NOTHING");
# A copy that began now would be without that commit, and so would what follows it.
my $opening = start_statement("SELECT aidb.stream_open('copy')");
wait_until(sub { $primary->safe_psql('postgres', q(SELECT wait_event FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT aidb.stream_open%')) eq 'AidbReplica' },
	'a new slot to wait for what is not seen');
signal_all($standby, 'CONT');
wait_until(sub { $primary->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id = 100') eq '1' }, 'the row to be seen');
finish_of($waiting);
is(finish_of($opening), '', 'a copy begins when all before it can be seen');
$primary->safe_psql('postgres', q{SELECT aidb.stream_drop('copy')});
is($primary->safe_psql('postgres', 'SELECT v FROM item WHERE id = 100'), 'unknown', 'nobody has written over what was not seen');

# ---- What does not reach the replica --------------------------------------------------------------------------------------

like(error_of($primary, "BEGIN; INSERT INTO heap VALUES (1); INSERT INTO item VALUES (101, 'x'); COMMIT"),
	qr/0A000.*something else.*aidb.allow_mixed/s, 'a mixed transaction is refused');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM heap'), '0', 'as a whole');
$primary->safe_psql('postgres', "SET aidb.allow_mixed = on; BEGIN; INSERT INTO heap VALUES (1); INSERT INTO item VALUES (101, 'x'); COMMIT");
$primary->safe_psql('postgres', 'CREATE FOREIGN TABLE made (id int PRIMARY KEY) SERVER aidb; INSERT INTO made SELECT generate_series(1, 50000)');
wait_until(sub { $standby->safe_psql('postgres', q(SELECT count(*) FROM pg_class WHERE relname = 'made')) eq '1' }, 'the table');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM made'), '50000', 'definitions and large transactions are not');

# ---- The lease --------------------------------------------------------------------------------------------------------

$primary->safe_psql('postgres', 'SELECT aidb.renew_lease(1, 50)');
wait_until(sub { error_of($primary, 'SELECT * FROM item') =~ /IA002.*lease has run out/s }, 'the lease to run out');
$primary->safe_psql('postgres', 'SELECT aidb.renew_lease(1, 600000)');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id = 1'), '1', 'a new lease allows reads');
$primary->restart;
like(error_of($primary, 'SELECT * FROM item'), qr/IA002.*lease has run out/s, 'a restart takes it away');
$primary->safe_psql('postgres', 'SELECT aidb.renew_lease(1, 600000)');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id = 1'), '1', 'and it is given anew');

# ---- Failovers ---------------------------------------------------------------------------------------------------------

my %acknowledged = (0 => 1);
my $next = 1000;

# Four sessions insert rows, one at a time, and write down what was acknowledged.
sub start_load {
	my @load;
	for my $writer (1 .. 4) {
		my $script = PostgreSQL::Test::Utils::tempdir() . "/load.$epoch.$writer";
		append_to_file($script, join '', map { "INSERT INTO item VALUES ($_, 'load') RETURNING id;\n" } $next .. $next + 4999);
		$next += 5000;
		my $run = IPC::Run::start([ $primary->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('postgres'),
			'-f', $script ], '<', \undef, '>', "$script.out", '2>', "$script.err");
		push @load, [ $run, "$script.out" ];
	}
	return @load;
}

my ($lost, $rows) = (0, 0);
for my $round (1 .. 10) {
	my @load = start_load();
	wait_until(sub { -s $load[0][1] && -s $load[3][1] }, 'some rows');
	sleep rand 0.3;
	$primary->crash;
	$epoch++;
	$standby->safe_psql('postgres', "SELECT aidb.seal($epoch)");
	$standby->safe_psql('postgres', "SELECT aidb.promote($epoch)");
	for my $load (@load) {
		eval { $load->[0]->finish };
		$acknowledged{$_} = 1 for slurp_file($load->[1]) =~ /^(\d+)$/mg;
	}
	my %there = map { $_ => 1 } split /\n/, $standby->safe_psql('postgres', 'SELECT id FROM item');
	$lost += grep { !$there{$_} } keys %acknowledged;
	$rows = keys %acknowledged;
	$primary->start;
	like(error_of($primary, "SELECT aidb.stream_read('x', $epoch, 1, 0, '{}')"), qr/IA002/, "round $round: the old primary hears of the new epoch");
	like(error_of($primary, "INSERT INTO item VALUES (-$round, 'x')"), qr/IA002/, 'and acknowledges nothing any more');
	($primary, $standby) = ($standby, $primary);
	join_group('true');
}
is($lost, 0, "ten failovers have lost none of $rows acknowledged rows");
my $digest = 'SELECT count(*), sum(id), min(v) FROM item';
is($standby->safe_psql('postgres', $digest), $primary->safe_psql('postgres', $digest), 'both have the same');

done_testing();
