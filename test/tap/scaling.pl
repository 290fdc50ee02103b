# A cluster that grows and shrinks while it is written to and read: slots move between groups, no acknowledged row is lost and none is
# invented, whoever is killed in the middle.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use AidbSession;
use IPC::Run;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_, conf => "aidb.row_cache = '16MB'") } qw(a b c);
my $temporary = PostgreSQL::Test::Utils::tempdir();
my ($output, $errors);

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

sub admin {
	my (@words) = @_;
	return IPC::Run::run([ './aidb-admin', '--conninfo=' . $catalog->conninfo, @words ], '<', \undef, '>', \$output, '2>', \$errors);
}

sub admin_ok {
	my (@words) = @_;
	ok(admin(@words), "aidb-admin @words") or diag("$output$errors");
	return $output;
}

sub slots_of { return ask(qq{SELECT count(*) FROM aidb.slots WHERE "group" = '$_[0]'}) }

# ---- Writers: each has keys of its own, and knows what was acknowledged -----------------------------------------------

my @writers;

# A new value for a key, or its deletion, or a row for it; what the server says may pass is tried again.
sub write_on {
	my ($number, $journal, $stop) = @_;
	my $session = AidbSession->connect($catalog) or return;
	my (%value, %refused);
	srand $number;
	for (my $n = 1; !-e $stop; $n++) {
		my $key = $number * 1000 + int rand 1000;
		my $delete = exists $value{$key} && rand() < 0.2;
		my $sql =
		    $delete ? "DELETE FROM item WHERE id = $key"
		  : exists $value{$key} ? "UPDATE item SET v = 'v$n' WHERE id = $key"
		  : "INSERT INTO item VALUES ($key, 'v$n')";
		my $state;
		while (($state = $session->run($sql)) ne '00000') {
			$refused{$state}++;
			return print {$journal} "failed $state\n" unless $state =~ /^(?:40001|08006|08001|08007)$/;
			last if $state eq '08007' && is_done($session, $key, $delete ? undef : "v$n");
		}
		$delete ? delete $value{$key} : ($value{$key} = "v$n");
	}
	print {$journal} "$_ $value{$_}\n" for keys %value;
	print {$journal} "refused $_ $refused{$_}\n" for keys %refused;
	return;
}

# Of a write whose outcome is not known.
sub is_done {
	my ($session, $key, $value) = @_;
	my $state;
	do { $state = $session->run("SELECT v FROM item WHERE id = $key") } while $state ne '00000';
	chomp(my $there = $session->{output});
	return $there eq ($value // '');
}

sub start_writers {
	my ($count) = @_;
	unlink "$temporary/stop";
	for my $number (1 .. $count) {
		my $pid = fork // die "fork: $!";
		if ($pid == 0) {
			open my $journal, '>', "$temporary/journal$number" or POSIX::_exit(1);
			write_on($number, $journal, "$temporary/stop");
			close $journal;
			POSIX::_exit(0);
		}
		push @writers, { pid => $pid, number => $number };
	}
	return;
}

# Ends them; all that they know, and nothing else, is in the table.
sub check_writers {
	my ($what) = @_;
	open my $stop, '>', "$temporary/stop" or die;
	close $stop;
	waitpid $_->{pid}, 0 for @writers;
	my (@expected, @failed);
	my $refused = 0;
	for my $writer (@writers) {
		for my $line (split /\n/, slurp_file("$temporary/journal$writer->{number}")) {
			if ($line =~ /^refused \w+ (\d+)/) { $refused += $1 }
			elsif ($line =~ /^failed/) { push @failed, $line }
			else { push @expected, $line }
		}
	}
	is("@failed", '', "$what: no error but those that may pass");
	is(ask(q{SELECT id || ' ' || v FROM item WHERE id < 100000 ORDER BY id}), join("\n", sort { ($a =~ /^(\d+)/)[0] <=> ($b =~ /^(\d+)/)[0] } @expected), "$what: no row is lost or invented")
	  or diag('rows: ' . scalar @expected);
	ask('SET aidb.multi_group_writes = separately; DELETE FROM item WHERE id < 100000');
	@writers = ();
	return $refused;
}

# ---- Slots of a server -----------------------------------------------------------------------------------------------

$node{$_}->safe_psql('postgres', 'SELECT aidb.become_primary()') for qw(a b);
ask("SELECT aidb.add_node('$_', '" . $node{$_}->conninfo . "')") for qw(a b c);
ask("SELECT aidb.add_group('g$_', '$_', false)") for qw(a b);
my $daemon = AidbDaemon->coordinator($catalog);
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE state = 'up'}, 3);
ask(q{CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb_cluster; CREATE FOREIGN TABLE gone (id int PRIMARY KEY) SERVER aidb_cluster;
	SET aidb.multi_group_writes = separately; INSERT INTO item SELECT i, 'row ' || i FROM generate_series(100001, 120000) i; INSERT INTO gone SELECT generate_series(1, 1000); TRUNCATE gone;
	INSERT INTO gone SELECT generate_series(1, 10)});
is($node{a}->safe_psql('postgres', 'SELECT cardinality(aidb.closed_slots())') + $node{b}->safe_psql('postgres', 'SELECT cardinality(aidb.closed_slots())'), 256, 'each slot is closed where it is not kept, from the first table on');
my $everything = ask('SELECT count(*), sum(id), md5(string_agg(v, chr(44) ORDER BY id)) FROM item WHERE id > 100000');

# ---- Growing ---------------------------------------------------------------------------------------------------------

is(admin_ok('rebalance', '--dry-run'), "every slot is where it is wanted\n", 'there is nothing to do');
admin_ok('group', 'add', 'gc', 'c');
is(slots_of('gc'), 0, 'a new group has no slots');
is($node{c}->safe_psql('postgres', q{SELECT string_agg(foreign_table_name, ' ' ORDER BY foreign_table_name) FROM information_schema.foreign_tables}), 'gone item', 'but all tables');
is(ask('SELECT count(*), sum(id), md5(string_agg(v, chr(44) ORDER BY id)) FROM item WHERE id > 100000'), $everything, 'and nothing is different');
like(admin_ok('rebalance', '--dry-run'), qr/^would move \d+ slots from group ga to group gc: about \d+ rows, \d+ MB\nwould move \d+ slots from group gb to group gc:/, 'what would move');
start_writers(3);
sleep 0.5;
my $moved = decode_json(admin_ok('rebalance', '--json'));
note("$moved->{moves} moves, $moved->{slots} slots, $moved->{rows} rows, longest hold $moved->{longest_hold_ms} ms");
cmp_ok(slots_of('gc'), '>', 60, 'the new group has its share');
is(ask('SELECT count(*) FROM aidb.planned_moves()'), 0, 'and all are where they are wanted');
sleep 0.3;
note(check_writers('growing') . ' statements were repeated');
is(ask('SELECT count(*), sum(id), md5(string_agg(v, chr(44) ORDER BY id)) FROM item WHERE id > 100000'), $everything, 'what nobody touched is the same');
is(ask('SELECT count(*) FROM gone'), 10, 'in other tables, too');
my %part = map { $_ => $node{$_}->safe_psql('postgres', 'SELECT count(*) FROM item') } qw(a b c);
is($part{a} + $part{b} + $part{c}, 20000, 'each row is at one group');
ok((grep { $_ > 3000 } values %part) == 3, 'each group has some');

# ---- Shrinking --------------------------------------------------------------------------------------------------------

my $same = 'SELECT count(*), sum(id), md5(string_agg(v, chr(44) ORDER BY id)) FROM item WHERE id > 100000';
like(error_of($catalog, q{SELECT aidb.remove_group('gc')}), qr/55006.*keeps \d+ slots.*group drain/s, 'a group with slots stays');
like(admin_ok('group', 'drain', 'gc', '--dry-run'), qr/^would move \d+ slots from group gc to group ga.*\nwould move \d+ slots from group gc to group gb.*\n$/, 'what would move');
start_writers(3);
admin_ok('group', 'drain', 'gc', '--slots-per-move=40');
check_writers('shrinking');
is(slots_of('gc'), 0, 'it keeps no slots');
is($node{c}->safe_psql('postgres', 'SELECT count(*) FROM item'), 0, 'and no rows');
is(ask($same), $everything, 'all of them are at the others');
admin_ok('group', 'remove', 'gc');
is($node{c}->safe_psql('postgres', 'SELECT count(*) FROM information_schema.foreign_tables'), 0, 'it is forgotten, and its tables are');
like(error_of($catalog, q{SELECT aidb.drain_group('ga'); SELECT aidb.drain_group('gb')}), qr/55000.*group "gb" is the last that may keep slots/s, 'the last one stays');
admin_ok('group', 'undrain', 'ga');
admin_ok('group', 'add', 'gc', 'c');

# ---- Refused ----------------------------------------------------------------------------------------------------------

sub is_stopped {
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/stat" or die "the process is gone: $output$errors";
	my ($state) = (<$in> // '') =~ /\) (\S)/;
	return ($state // '') eq 'T';
}

# It goes on whenever it stops: the point stops it again in the next move.
sub let_end {
	my ($mover, $pid) = @_;
	while ($mover->pumpable) {
		$mover->pump_nb;
		kill 'CONT', $pid if eval { is_stopped($pid) };
		sleep 0.01;
	}
	return;
}

$node{c}->stop;
ok(!admin('rebalance'), 'nothing moves to a node that cannot be reached');
like($errors, qr/^aidb-admin: node "c" of group "gc": connection to server .* failed/, 'which is named');
$node{c}->start;
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE state = 'up'}, 3);
{
	local $ENV{AIDB_FAULT_POINT} = 'move_copy';
	my ($first, $said) = ('', '');
	my $mover = IPC::Run::start([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'rebalance' ], '<', \undef, '>', \$first, '2>', \$said);
	my $pid = $mover->{KIDS}[0]{PID};
	sleep 0.005 until is_stopped($pid);
	delete $ENV{AIDB_FAULT_POINT};
	ok(!admin('rebalance'), 'two do not move at a time');
	like($errors, qr/^aidb-admin: another process moves slots of this cluster; wait until it is done$/, 'the second is told so');
	like(error_of($catalog, q{SET lock_timeout = '200ms'; CREATE FOREIGN TABLE late (id int PRIMARY KEY) SERVER aidb_cluster}), qr/55P03/, 'no table is made meanwhile');
	is(ask(q{SELECT sum(leaving) = sum(coming) AND sum(coming) > 0 FROM aidb.stat_slots}), 't', 'and what is on its way is shown');
	kill 'INT', $pid;
	kill 'CONT', $pid;
	$mover->finish;
	$catalog->wait_for('SELECT count(*) FROM aidb.slot_move', 0);
	is(ask($same), $everything, 'what is broken off with Ctrl-C is undone');
	is($node{c}->safe_psql('postgres', 'SELECT count(*) FROM item'), 0, 'and leaves nothing');
}

# Starts a move that stops before a step, and calls for what is to be done then.
sub stop_at {
	my ($step, $meanwhile) = @_;
	local $ENV{AIDB_FAULT_POINT} = "move_$step";
	my $mover = IPC::Run::start([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'rebalance', '--slots-per-move=256' ], '<', \undef, '>', \$output, '2>', \$errors);
	my $pid = $mover->{KIDS}[0]{PID};
	sleep 0.005 until is_stopped($pid);
	$meanwhile->();
	let_end($mover, $pid);
	return $mover->finish;
}

my $moving = q{SELECT array_agg(slot) FROM aidb.slot_move};
ok(!stop_at('compare', sub { is($node{c}->safe_psql('postgres', q{SELECT aidb.slots_purge('} . ask($moving) . q{', 1)}), 1, 'a row of the copy goes') }), 'a copy that is another is not taken');
like($errors, qr/the copy at group "gc" differs from the slots of group "ga": (\d+) rows, hash \S+ instead of (\d+) rows, hash \S+; the slots are where they were/, 'with what differs');
is(ask($same), $everything, 'and nothing has changed');

# Whoever moves slots and falls silent lets writers go on.
my $writer = AidbSession->connect($catalog);
my $ids = join ',', split /\n/, $node{a}->safe_psql('postgres', 'SELECT id FROM item WHERE id > 100000 ORDER BY id LIMIT 400');
my $begun;
ok(!stop_at('close', sub { $begun = time; is($writer->run("UPDATE item SET v = v WHERE id IN ($ids)"), '00000', 'a writer that waits goes on') }), 'the move is given up');
cmp_ok(time - $begun, '>', 1, 'after a while');
cmp_ok(time - $begun, '<', 20, 'that is not long');
$catalog->wait_for('SELECT count(*) FROM aidb.slot_move', 0);
is(ask($same), $everything, 'and the rows are where they were');

# A snapshot that is older than the opening of a slot may lack rows that came before.
my $reader = AidbSession->connect($node{c});
is(join(' ', map { $reader->run($_) } 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM item'), '00000 00000', 'a snapshot');
$node{c}->safe_psql('postgres', q{SELECT aidb.open_slots('{5}')});
is($reader->run('SELECT count(*) FROM item'), 'IA001', 'does not go through a slot that was opened later');
$reader->run('ROLLBACK');
is($reader->run('SELECT count(*) FROM item'), '00000', 'a new one does');
$node{c}->safe_psql('postgres', q{SELECT aidb.close_slots('{5}')});

# ---- Killed at every step ---------------------------------------------------------------------------------------------

# Moves slots between gc and the others, there and back.
my $is_drained = 0;

# Where the first of the planned moves leads from and to: names of nodes.
sub turn_round {
	ask("SELECT aidb.drain_group('gc', " . ($is_drained ? 'false' : 'true') . ')') if slots_of('gc') > 0 || $is_drained;
	$is_drained = !$is_drained if slots_of('gc') > 0 || $is_drained;
	my ($first) = @{ decode_json(admin_ok('rebalance', '--dry-run', '--json')) };
	return map { substr $first->{$_}, 1 } qw(source target);
}

# What transactions have written that end while the hold waits for them is in what is handed over last; who comes then waits.
for my $round (1 .. 6) {
	my ($source, $target) = turn_round();
	my @ids = split /\n/, $node{$source}->safe_psql('postgres', 'SELECT id FROM item WHERE id > 100000 ORDER BY id LIMIT 400');
	my @sessions = map { AidbSession->connect($catalog) } 0 .. 1;
	local $ENV{AIDB_FAULT_POINT} = 'move_hold';
	my $mover = IPC::Run::start([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'rebalance', '--slots-per-move=256' ], '<', \undef, '>', \$output, '2>', \$errors);
	my $pid = $mover->{KIDS}[0]{PID};
	sleep 0.005 until is_stopped($pid);
	for my $half (0, 1) {
		my $list = join ',', grep { ($_ + $half) % 2 } @ids;
		my @states = map { $sessions[$half]->run($_) } 'BEGIN', "UPDATE item SET v = 'round $round' WHERE id IN ($list)";
		die "@states" if "@states" ne '00000 00000';
	}
	kill 'CONT', $pid;
	sleep 0.11 + 0.03 * $round;
	is($_->run('COMMIT'), '00000', "round $round: a transaction ends while slots are about to be handed over") for @sessions;
	let_end($mover, $pid);
	ok($mover->finish, 'they are') or diag("$output$errors");
	is(ask('SELECT count(*) FROM item WHERE id IN (' . join(',', @ids) . qq{) AND v = 'round $round'}), scalar @ids, 'and what it wrote with them');
}
$everything = ask($same);

start_writers(2);
for my $step (qw(begin copy follow mark compare hold close record open purge)) {
	for my $victim (qw(mover source target)) {
		my %role;
		@role{qw(source target)} = turn_round();
		my $before = slots_of("g$role{target}");
		local $ENV{AIDB_FAULT_POINT} = "move_$step";
		my $mover = IPC::Run::start([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'rebalance', '--slots-per-move=20' ], '<', \undef, '>', \$output, '2>', \$errors);
		my $pid = $mover->{KIDS}[0]{PID};
		sleep 0.005 until is_stopped($pid);
		if ($victim eq 'mover') {
			kill 'KILL', $pid;
		} else {
			$node{ $role{$victim} }->crash;
			delete $ENV{AIDB_FAULT_POINT};
			kill 'CONT', $pid;
		}
		let_end($mover, $pid);
		$mover->finish;
		$node{ $role{$victim} }->start if $victim ne 'mover';
		$catalog->wait_for('SELECT count(*) FROM aidb.slot_move', 0);
		is(ask($same), $everything, "$victim killed at step $step: the rows are the same");
		my $moved = slots_of("g$role{target}") > $before;
		is($moved, $step =~ /open|purge/, 'the move was ' . ($step =~ /open|purge/ ? 'completed' : 'undone')) if $victim eq 'mover';
	}
}
check_writers('killed at every step');

# ---- Replicas -----------------------------------------------------------------------------------------------------------

# Reads at standbys and caching read nodes see every row, too, wherever it is just then.
$node{$_} = AidbNode->launch($_, conf => "aidb.row_cache = '16MB'") for qw(d e f g);
ask("SELECT aidb.add_node('$_', '" . $node{$_}->conninfo . "')") for qw(d e f g);
ask(q{UPDATE aidb.node_group SET synchronous = true WHERE name = 'ga'; SELECT aidb.add_replica('ga', 'd'), aidb.add_replica('gb', 'e'), aidb.add_replica('gc', 'f'), aidb.add_replica('ga', 'g', 'cache')});
$catalog->wait_for(q{SELECT in_sync FROM aidb.groups WHERE name = 'ga'}, 'd');
$node{$_}->wait_for('SELECT state FROM aidb.node_status()', 'streaming') for qw(d e f g);
ask("SELECT aidb.drain_group('gc', false)");
admin_ok('rebalance');

# A group that has left and come back gives its tables their numbers again: nothing of that removes rows of a replica.
for my $standby (qw(d e f)) {
	my ($group) = grep { ask(qq{SELECT count(*) FROM aidb.nodes WHERE name = '$standby' AND "group" = '$_'}) } qw(ga gb gc);
	my $primary = ask(qq{SELECT "primary" FROM aidb.groups WHERE name = '$group'});
	my $rows = $node{$primary}->safe_psql('postgres', 'SELECT count(*), sum(id) FROM item');
	$node{$standby}->wait_for('SELECT count(*), sum(id) FROM item', $rows);
	is($node{$standby}->safe_psql('postgres', 'SELECT count(*), sum(id) FROM item'), $rows, "standby $standby has the rows of $primary");
}

sub read_from {
	my ($where, $journal, $stop) = @_;
	my $session = AidbSession->connect($catalog) or return;
	$session->run("SET aidb.read_from = '$where'");
	my ($good, $again) = (0, 0);
	while (!-e $stop) {
		my $key = 100001 + int rand 20000;
		for my $query ('SELECT count(*), sum(id) FROM item WHERE id > 100000', "SELECT count(*), sum(id) FROM item WHERE id IN ($key, 100001)", "SELECT count(*), sum(id) FROM item WHERE id = $key") {
			my $state;
			while (($state = $session->run($query)) ne '00000') {
				$again++;
				return print {$journal} "failed $state\n" unless $state =~ /^(?:40001|08006)$/;
			}
			my $sum = $query =~ /> 100000/ ? '20000|' . 110000.5 * 20000 : $query =~ /IN/ ? '2|' . ($key + 100001) : "1|$key";
			$sum = '1|100001' if $key == 100001;
			chomp(my $got = $session->{output});
			return print {$journal} "failed: at $where '$query' gives $got\n" if $got ne $sum;
			$good++;
		}
	}
	print {$journal} "refused again $again\n" if $again;
	return $good;
}

sub start_reader {
	my ($number, $where) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		open my $journal, '>', "$temporary/journal$number" or POSIX::_exit(1);
		read_from($where, $journal, "$temporary/stop");
		close $journal;
		POSIX::_exit(0);
	}
	push @writers, { pid => $pid, number => $number };
	return;
}

start_writers(2);
start_reader(10 + $_, (qw(primary standby cache))[$_]) for 0 .. 2;
sleep 0.3;
admin_ok('group', 'drain', 'gc');
admin_ok('group', 'undrain', 'gc');
admin_ok('rebalance', '--slots-per-move=8');
sleep 0.3;
check_writers('with replicas');

# The client library, which goes to nodes by itself: random operations give what a model says, and loads keep what was acknowledged.
ask('CREATE FOREIGN TABLE store (key bytea PRIMARY KEY, value bytea) SERVER aidb_cluster; CREATE FOREIGN TABLE loaded (key bytea PRIMARY KEY, value bytea) SERVER aidb_cluster');
my $seed = 1;
for my $where (qw(primary standby cache)) {
	my (%said, %run);
	$run{model} = IPC::Run::start([ './client', $catalog->conninfo, 'store', "read_from=$where", 'timeout=20000', 'model', $seed++, 300 ], '<', \undef, '&>', \$said{model});
	$run{load} = IPC::Run::start([ './client', $catalog->conninfo, 'loaded', "read_from=$where", 'timeout=20000', 'load', 2, 2 ], '<', \undef, '&>', \$said{load});
	my $moves = 0;
	while ($run{model}->pumpable || $run{load}->pumpable) {
		$_->pumpable && $_->pump_nb for values %run;
		admin('group', $moves % 2 ? 'undrain' : 'drain', 'gc') or diag($errors);
		admin('rebalance') or diag($errors);
		$moves++;
	}
	$_->finish for values %run;
	is($said{model}, "300 rounds\n", "random operations of a client that reads from the $where, while slots have moved $moves times");
	like($said{load}, qr/^\d+ rows acknowledged, 0 batches failed\n$/, 'and a load');
	note($said{load});
	ask('SET aidb.multi_group_writes = separately; DELETE FROM store; DELETE FROM loaded');
}

# A failover in the middle undoes the move, and the next attempt does it.
for my $step (qw(compare close)) {
	start_writers(2);
	start_reader(10, 'primary');
	admin_ok('group', 'undrain', 'ga');
	admin_ok('rebalance');
	local $ENV{AIDB_FAULT_POINT} = "move_$step";
	my $primary = ask(q{SELECT "primary" FROM aidb.groups WHERE name = 'ga'});
	my $mover = IPC::Run::start([ './aidb-admin', '--conninfo=' . $catalog->conninfo, 'group', 'drain', 'ga', '--slots-per-move=256' ], '<', \undef, '>', \$output, '2>', \$errors);
	my $pid = $mover->{KIDS}[0]{PID};
	sleep 0.005 until is_stopped($pid);
	ask(q{SELECT aidb.failover('ga')});
	$catalog->wait_for(qq{SELECT count(*) FROM aidb.groups WHERE name = 'ga' AND "primary" = '$primary'}, 0);
	$catalog->wait_for(q{SELECT in_sync IS NOT NULL FROM aidb.groups WHERE name = 'ga'}, 't');
	let_end($mover, $pid);
	ok(!$mover->finish, "a failover of the source at step $step ends the move");
	like($errors, qr/node "$primary" of group "ga".*not the primary|node "$primary" of group "ga".*(?:terminating|closed)/, 'with the reason');
	delete $ENV{AIDB_FAULT_POINT};
	$catalog->wait_for('SELECT count(*) FROM aidb.slot_move', 0);
	admin_ok('rebalance');
	is(slots_of('ga'), 0, 'the next attempt does it');
	check_writers("failover at step $step");
	is(ask($same), $everything, 'and the rows are the same');
}

done_testing();
