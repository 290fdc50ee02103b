# Mixed commits that only PostgreSQL's log makes durable: what AiDb's log has lost of them comes back after a crash, whatever
# else happens at that moment; nothing else comes back.
#
# A mixed transaction inserts a row into a heap table and one into an AiDb table, and counts in a row of each. So both have
# the same rows and counters say how many, and of the rows that were acknowledged none is missing.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use File::Copy qw(copy);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $races = 50;
my $losses = 15;
my $orphanings = 8;
my $limit_s = $PostgreSQL::Test::Utils::timeout_default;

sub launch {
	my ($name) = @_;
	my $node = AidbNode->launch($name, memory => '16MB', conf => <<'CONF');
shared_buffers = 4MB
log_statement = none
log_min_error_statement = panic
CONF
	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE heap_row (id int PRIMARY KEY);
CREATE TABLE heap_counter (value int);
CREATE FOREIGN TABLE aidb_row (id int PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE counter (id int PRIMARY KEY, value int) SERVER aidb;
INSERT INTO heap_counter VALUES (0);
INSERT INTO counter VALUES (1, 0);
SQL
	return $node;
}

my $node = launch('main');
my %acknowledged;
my $number = 0;

# ---- Transactions ------------------------------------------------------------------------------------------------

sub statements {
	my ($id) = @_;
	return (
		'UPDATE heap_counter SET value = value + 1', "INSERT INTO heap_row VALUES ($id)",
		'UPDATE counter SET value = value + 1 WHERE id = 1', "INSERT INTO aidb_row VALUES ($id)");
}

# Commits so many, and notes them.
sub commit_some {
	my ($session, $count) = @_;
	for (1 .. $count) {
		my $id = ++$number;
		my $state = $session->transaction(statements($id));
		die "SQLSTATE $state" if defined $state && $state ne '00000';
		return if !defined $state;
		$acknowledged{$id} = 1;
	}
	return 1;
}

sub is_whole {
	my ($name) = @_;
	my $session = AidbSession->connect_until($node);
	my @found = $session->rows(<<'SQL');
SELECT 'row ' || id || ' is but in one table' FROM aidb_row FULL JOIN heap_row USING (id) WHERE aidb_row IS NULL OR heap_row IS NULL
UNION ALL SELECT 'the counters are ' || c.value || ' and ' || h.value FROM counter c, heap_counter h
	WHERE c.value <> (SELECT count(*) FROM aidb_row) OR h.value <> c.value
SQL
	my %there = map { $_ => 1 } $session->rows('SELECT id FROM aidb_row');
	push @found, map { "row $_ is missing" } grep { !$there{$_} } sort { $a <=> $b } keys %acknowledged;
	push @found, 'files of the recovery are left' if glob $node->data_dir . '/aidb/REDO*';
	is(join("\n", @found), '', $name);
	return;
}

# ---- The server --------------------------------------------------------------------------------------------------

sub syncs {
	my ($session) = @_;
	my ($syncs) = $session->rows("SELECT value FROM aidb.stats() WHERE name = 'log_syncs'");
	return $syncs;
}

# The logger's number, and when the transaction began in which it keeps the guard.
sub logger {
	my ($session) = @_;
	my $deadline = time + $limit_s;
	while (time < $deadline) {
		my ($row) = $session->rows(
			"SELECT pid, xact_start FROM pg_stat_activity WHERE backend_type = 'aidb logger' AND xact_start IS NOT NULL");
		return split /\|/, $row if $row;
		sleep 0.01;
	}
	die 'there is no logger that keeps the guard';
}

# Waits until no other session is left: those write AiDb's log when they go.
sub wait_alone {
	my ($session) = @_;
	my $deadline = time + $limit_s;
	my $others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
	sleep 0.01 while ($session->rows($others))[0] > 0 && time < $deadline;
	return;
}

# Stops the logger when it has just renewed the guard. From then on nobody writes AiDb's log, and mixed commits are carried.
sub stop_logger {
	my ($session) = @_;
	my $deadline = time + $limit_s;
	wait_alone($session);
	while (time < $deadline) {
		my ($pid, $begun) = logger($session);
		my ($again, $renewed) = ($pid, $begun);
		($again, $renewed) = logger($session) while $again == $pid && $renewed eq $begun && time < $deadline;
		kill 'STOP', $again;
		my $before = syncs($session);
		commit_some($session, 1);
		return if syncs($session) == $before;
		kill 'CONT', $again;
	}
	die 'the logger does not keep the guard';
}

sub set_fault {
	my ($fault) = @_;
	$node->append_conf('postgresql.conf', "aidb.fault_point = '$fault'");
	return;
}

# Starts the server, which dies at the step; so many times.
sub die_at {
	my ($point, $times) = @_;
	set_fault("$point=kill-all");
	for (1 .. $times) {
		$node->start(fail_ok => 1);
		my $deadline = time + $limit_s;
		sleep 0.01 while $node->processes && time < $deadline;
		ok(!$node->processes, "the server died at $point");
		$node->crash;
	}
	set_fault('');
	return;
}

# ---- AiDb's log was never written --------------------------------------------------------------------------------

for my $settings ('', 'SET default_transaction_isolation = serializable') {
	my $session = AidbSession->connect($node);
	$session->rows($settings) if $settings;
	stop_logger($session);
	my $before = syncs($session);
	commit_some($session, 20);
	is(syncs($session), $before, 'mixed commits do not sync AiDb\'s log' . ($settings && ' (serializable)'));
	$node->crash;
	$node->start;
	is_whole('and are there after a crash');
}

{
	my $session = AidbSession->connect($node);
	$session->rows('SET default_transaction_isolation = serializable');
	stop_logger($session);
	for my $id (1001 .. 1010) {
		is($session->run("INSERT INTO aidb_row VALUES (-$id)"), '00000', 'a serializable transaction of AiDb tables alone');
	}
	$node->crash;
	$node->start;
	$session = AidbSession->connect($node);
	is_deeply([ $session->rows('SELECT count(*) FROM aidb_row WHERE id < 0') ], [10], 'is there after a crash');
	$session->rows('DELETE FROM aidb_row WHERE id < 0');
}

# A lazy commit that a carried one may have been built on is not left behind.
{
	my $session = AidbSession->connect($node);
	stop_logger($session);
	$session->rows('SET synchronous_commit = off');
	$session->rows('INSERT INTO aidb_row VALUES (-1)');
	my $before = syncs($session);
	$session->rows('SET synchronous_commit = on');
	commit_some($session, 1);
	cmp_ok(syncs($session), '>', $before, 'a mixed commit after an asynchronous one syncs');
	$node->crash;
	$node->start;
	$session = AidbSession->connect($node);
	is_deeply([ $session->rows('SELECT id FROM aidb_row WHERE id < 0') ], [-1], 'so that the asynchronous one is there after a crash');
	$session->rows('DELETE FROM aidb_row WHERE id < 0');
	is_whole('with the other');
}

# Nobody depends on the logger.
{
	my $session = AidbSession->connect($node);
	my ($pid) = logger($session);
	$session->rows("SELECT pg_terminate_backend($pid)");
	my $deadline = time + $limit_s;
	sleep 0.01 while -d "/proc/$pid" && time < $deadline;
	my $before = syncs($session);
	commit_some($session, 5);
	cmp_ok(syncs($session), '>=', $before + 5, 'without a logger mixed commits sync AiDb\'s log');
	is($session->run('CHECKPOINT'), '00000', 'and a checkpoint waits for nobody');
	$session->rows('SET default_transaction_isolation = serializable');
	$session->rows('INSERT INTO aidb_row VALUES (-1)'); # logs a reservation of ids
	is($session->run('INSERT INTO aidb_row VALUES (-2)'), '00000', 'one that logs nothing in PostgreSQL\'s log commits');
	$node->crash;
	$node->start;
	$session = AidbSession->connect($node);
	is_deeply([ $session->rows('SELECT id FROM aidb_row WHERE id < 0') ], [ -2, -1 ], 'and is there after a crash');
	$session->rows('DELETE FROM aidb_row WHERE id < 0');
	is_whole('with the others');
}

# ---- Death during recovery ---------------------------------------------------------------------------------------

sub crash_with_lost_log {
	my $session = AidbSession->connect_until($node);
	stop_logger($session);
	commit_some($session, 20);
	$node->crash;
	return;
}

for my $point (qw(redo_added redo_closed redo_selected redo_ready redo_begun redo_written redo_synced redo_removed)) {
	crash_with_lost_log();
	die_at($point, $point eq 'redo_removed' ? 1 : 2);
	$node->start;
	is_whole('after which all is there');
}

# ---- Damage ------------------------------------------------------------------------------------------------------

sub flip {
	my ($file, $offset) = @_;
	open my $handle, '+<:raw', $file or die "$file: $!";
	sysseek $handle, $offset, 0;
	sysread $handle, my $byte, 1;
	sysseek $handle, $offset, 0;
	syswrite $handle, chr(ord($byte) ^ 1);
	return;
}

sub is_refused {
	my ($like, $name) = @_;
	my ($status, $output, $errors) = $node->psql('postgres', 'SELECT count(*) FROM aidb_row');
	isnt($status, 0, $name);
	like($errors, $like, 'and tells file, place and reason');
	return;
}

{
	my $redo = $node->data_dir . '/aidb/REDO';
	crash_with_lost_log();
	die_at('redo_closed', 1);
	flip($redo, (-s $redo) / 2);
	die_at('redo_selected', 1);
	pass('a recovery that is repeated makes a damaged file good');

	flip($redo, (-s $redo) / 2);
	$node->start;
	is_refused(qr{aidb/REDO: offset \d+: the file is damaged}, 'a damaged file stops the store');
	$node->stop;
	flip($redo, (-s $redo) / 2);
	copy($redo, "$redo.kept");
	truncate $redo, (-s $redo) - 100;
	$node->start;
	is_refused(qr{aidb/REDO: offset \d+: the file is damaged or cut off}, 'and so does one that is cut off');
	$node->stop;
	rename "$redo.kept", $redo;

	my $main = $node;
	$node = launch('other');
	my $session = AidbSession->connect($node);
	my %kept = %acknowledged;
	stop_logger($session);
	%acknowledged = %kept;
	$node->crash;
	die_at('redo_selected', 1);
	my $other = $node->data_dir . '/aidb/REDO';
	$node = $main;
	rename $redo, "$redo.kept";
	copy($other, $redo);
	$node->start;
	is_refused(qr{aidb/REDO: offset \d+: a record of another store}, 'and so does that of another store');
	$node->stop;
	rename "$redo.kept", $redo;
	$node->start;
	is_whole('with the right file all is there');
}

# ---- What was written and not synced is lost, too ----------------------------------------------------------------

sub logs {
	my %bytes;
	for my $file (glob $node->data_dir . '/aidb/*.log') {
		$bytes{$file} = slurp_file($file);
	}
	return %bytes;
}

# Where two versions of a file differ: the first such byte, and the one after the last.
sub difference {
	my ($old, $new) = @_;
	my $xor = $old ^ $new;
	$xor =~ /^\0*/g;
	my $begin = $+[0];
	(my $kept = $xor) =~ s/\0+\z//;
	return ($begin, length $kept);
}

# The server dies when somebody has written the log for the first time, before he syncs it. Of what he wrote, a part is lost.
for my $round (1 .. $losses) {
	$node->stop('fast');
	my %old = logs();
	set_fault('log_written=kill-all');
	$node->start(fail_ok => 1);
	set_fault('');
	my $session = AidbSession->connect($node);
	1 while $session && eval { commit_some($session, 1) };
	my $deadline = time + $limit_s;
	sleep 0.01 while $node->processes && time < $deadline;
	$node->crash;
	my %new = logs();
	my ($lost, $of) = (0, 0);
	for my $file (grep { defined $old{$_} && $old{$_} ne $new{$_} } keys %new) {
		my ($begin, $end) = difference($old{$file}, $new{$file});
		my $keep = $begin + ($round == 1 ? 0 : int rand($end - $begin));
		open my $handle, '+<:raw', $file or die "$file: $!";
		sysseek $handle, $keep, 0;
		syswrite $handle, "\0" x ($end - $keep);
		($lost, $of) = ($lost + $end - $keep, $of + $end - $begin);
	}
	cmp_ok($lost, '>', 0, "round $round: lost the last $lost of $of bytes that were written and not synced");
	$node->start;
	is_whole("round $round: all is there");
}

# ---- Checkpoints -------------------------------------------------------------------------------------------------

my $journal = "$PostgreSQL::Test::Utils::tmp_check/journal";

sub write_on {
	my ($writer, $first) = @_;
	my $session = AidbSession->connect($node) or return;
	open my $out, '>>', "$journal$writer" or die $!;
	for (my $id = $first;; $id++) {
		my $state = '40P01';
		$state = $session->transaction(statements($id)) while defined $state && $state eq '40P01';
		return if !defined $state;
		syswrite $out, $state eq '00000' ? "$id\n" : "SQLSTATE $state\n";
	}
}

my @writers;

END {
	kill 'KILL', @writers;
}

# Three, and the first has committed something.
sub start_writers {
	my ($round) = @_;
	for my $writer (1 .. 3) {
		my $pid = fork // die "fork: $!";
		if ($pid == 0) {
			@writers = ();
			write_on($writer, $round * 1_000_000 + $writer * 200_000);
			POSIX::_exit(0);
		}
		push @writers, $pid;
	}
	my $deadline = time + $limit_s;
	sleep 0.005 until -s "${journal}1" || time > $deadline;
	return;
}

# When the server is gone.
sub end_writers {
	waitpid $_, 0 for @writers;
	@writers = ();
	for my $file (map { "$journal$_" } 1 .. 3) {
		next unless -e $file;
		$acknowledged{$_} = 1 for split /\n/, slurp_file($file);
		unlink $file;
	}
	return;
}

# A checkpoint passes commits that AiDb's log does not hold yet; the crash comes with its end.
for my $round (1 .. $races) {
	my $session = AidbSession->connect_until($node);
	logger($session);
	start_writers($round);
	sleep rand 0.05; # anywhere in a round of the logger's
	$session->run('CHECKPOINT');
	$node->crash;
	end_writers();
	$node->start;
	is_whole("round $round: all is there after a checkpoint and a crash");
}

# Only the postmaster dies, while a checkpoint may be waiting for the logger: nobody may stay behind.
for my $round (1 .. $orphanings) {
	my $session = AidbSession->connect_until($node);
	logger($session);
	start_writers($races + $round);
	$session->start(join '\; ', ('CHECKPOINT') x 1000);
	sleep 0.1 + rand 0.1;
	my $postmaster = $node->{_pid};
	kill 'KILL', $postmaster;
	my $deadline = time + $limit_s;
	sleep 0.01 while $node->processes && time < $deadline;
	my @left = $node->processes;
	is(scalar @left, 0, "round $round: without a postmaster, all processes leave");
	$node->crash;
	end_writers();
	$node->start;
	is_whole("round $round: all is there after the postmaster's death");
}

is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
done_testing();
