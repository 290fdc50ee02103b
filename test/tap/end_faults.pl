# What can go wrong at the end of a transaction without killing the process, which commit_faults.pl does: FATAL, cancel
# and terminate at each named step, an error that core raises after AiDb's last check, and all of these and death during
# an abort and at the end of subtransactions. After each the transaction is there as a whole or not at all, what others
# see is right, nothing is held, and the same rows can be changed by the next.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $large_rows = 600; # of a kilobyte each: more than one record of the log takes
my $limit_s = $PostgreSQL::Test::Utils::timeout_default;

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 4MB
log_statement = none
log_min_error_statement = panic
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE TABLE heap_account (id int PRIMARY KEY, amount bigint);
CREATE FOREIGN TABLE account (id int PRIMARY KEY, amount bigint) SERVER aidb;
CREATE FOREIGN TABLE large (id int PRIMARY KEY, owner int, filler text) SERVER aidb;
CREATE FOREIGN TABLE ledger (number int PRIMARY KEY, kind text) SERVER aidb;
CREATE TABLE burnt (number int);
INSERT INTO heap_account VALUES (1, 0);
INSERT INTO account VALUES (1, 0), (2, 0);
INSERT INTO large SELECT i, 0, repeat('x', 1000) FROM generate_series(1, $large_rows) i;
SQL

# A plain transaction moves money between two AiDb accounts, a mixed one between heap and AiDb, a large one rewrites a
# table; the ledger has each that there is. Nothing to find when all is as it says.
my $balance = <<'SQL';
SELECT 'plain: ' || a.amount FROM account a, account b WHERE a.id = 1 AND b.id = 2
	AND (a.amount <> (SELECT count(*) FROM ledger WHERE kind = 'plain') - (SELECT count(*) FROM ledger WHERE kind = 'mixed')
		OR b.amount <> -(SELECT count(*) FROM ledger WHERE kind = 'plain'))
UNION ALL SELECT 'mixed: ' || amount FROM heap_account WHERE amount <> (SELECT count(*) FROM ledger WHERE kind = 'mixed')
UNION ALL SELECT 'large: ' || count(DISTINCT owner) FROM large
	HAVING count(DISTINCT owner) <> 1 OR min(owner) <> (SELECT coalesce(max(number), 0) FROM ledger WHERE kind = 'large')
SQL
chomp $balance;

# What is held and should not be. The one snapshot is the asker's own.
my $held = <<'SQL';
SELECT name || ': ' || value FROM aidb.stats() WHERE value <> (name = 'snapshots')::int
	AND name IN ('snapshots', 'readers', 'reservations', 'reserved_bytes', 'row_locks', 'asynchronous_commits')
UNION ALL SELECT concat_ws(' ', 'lock:', locktype, mode, relation::regclass) FROM pg_locks
	WHERE pid IS DISTINCT FROM pg_backend_pid()
	AND coalesce(pid, 0) NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'aidb logger')
SQL
chomp $held;

my %statements = (
	plain => sub {
		'UPDATE account SET amount = amount + 1 WHERE id = 1', 'UPDATE account SET amount = amount - 1 WHERE id = 2',
		"INSERT INTO ledger VALUES ($_[0], 'plain')" },
	mixed => sub {
		'UPDATE account SET amount = amount - 1 WHERE id = 1', 'UPDATE heap_account SET amount = amount + 1 WHERE id = 1',
		"INSERT INTO ledger VALUES ($_[0], 'mixed')" },
	large => sub { "UPDATE large SET owner = $_[0]", "INSERT INTO ledger VALUES ($_[0], 'large')" });

my $number = 0;
my $observer = AidbSession->connect($node);

sub wait_until {
	my ($condition) = @_;
	my $deadline = time + $limit_s;
	sleep 0.01 until $condition->() || time > $deadline;
	return;
}

# What is wrong after transaction `number` of this kind, which must be absent, present, or either.
sub faults_found {
	my ($kind, $fate) = @_;
	my @left;
	wait_until(sub { @left = $observer->rows($held); !@left });
	my ($there) = $observer->rows("SELECT count(*) FROM ledger WHERE number = $number");
	push @left, "the transaction is there: $there, which should be $fate"
		if $fate ne 'either' && $there != ($fate eq 'present');
	push @left, $observer->rows($balance);
	my $state = $observer->transaction($statements{$kind}->(++$number));
	push @left, "the next one failed with SQLSTATE $state" if $state ne '00000';
	return (@left, $observer->rows($balance));
}

# Runs the messages with the fault at this step. The session, and the SQLSTATE of the one that failed; undef: lost.
sub run_with_fault {
	my ($fault, @messages) = @_;
	my $session = AidbSession->connect_until($node);
	my ($pid) = $session->rows('SELECT pg_backend_pid()');
	my $state;
	$session->rows("SET aidb.fault_point = '$fault'");
	for my $message (@messages) {
		$state = $session->run($message);
		last if !defined $state || $state ne '00000';
	}
	if (defined $state) {
		# a terminate that came after the answer
		$session->run('RESET aidb.fault_point') // undef $state if $fault =~ /terminate/;
	}
	AidbNode::wait_gone($pid) unless defined $state;
	return ($session, $state);
}

# The postmaster ends all others when it notices that one died, and starts anew.
sub meet_restart {
	$observer->wait_lost;
	$observer = AidbSession->connect_until($node);
	return;
}

sub check {
	my ($name, $kind, $fate, $wanted_state, $fault, @messages) = @_;
	my ($session, $state) = run_with_fault($fault, @messages);
	$state //= 'lost';
	meet_restart() if $fault =~ /(kill|panic)$/;
	$observer->rows("INSERT INTO burnt VALUES (1)") for 1 .. 3; # the ids of those that died may be given out again
	$fate = $state eq '57014' ? 'absent' : $state eq '00000' ? 'present' : $fate if $fault =~ /cancel$/;
	my @found = faults_found($kind, $fate);
	push @found, "SQLSTATE $state" if $state !~ /^($wanted_state)$/;
	is(join("\n", @found), '', "$name: $state");
	return;
}

# ---- Commit ------------------------------------------------------------------------------------------------------

my @before = qw(precommit_begin);
my %raising = (
	plain => [ @before, 'precommit_reserved' ],
	mixed => [ @before, 'precommit_piece_prepared', 'precommit_prepared' ]);
my %inside = (
	plain => [qw(commit_begin sequence_taken log_copied memtable_inserted log_written log_synced published commit_end)],
	mixed => [qw(log_copied memtable_inserted log_written log_synced published commit_mixed_begin commit_mixed_end)]);
$raising{large} = $raising{mixed};
$inside{large} = $inside{mixed};

for my $kind (qw(plain mixed large)) {
	for my $synchronous (qw(on off)) {
		my $commit = sub { ('BEGIN', "SET LOCAL synchronous_commit = $synchronous", $statements{$kind}->(++$number), 'COMMIT') };
		check("$kind, $synchronous, FATAL at $_", $kind, 'absent', 'lost', "$_=fatal", $commit->()) for @{ $raising{$kind} };
		for my $step (@{ $raising{$kind} }, @{ $inside{$kind} }) {
			check("$kind, $synchronous, terminate at $step", $kind, 'either', 'lost|00000', "$step=terminate", $commit->());
			check("$kind, $synchronous, cancel at $step", $kind, 'either', '57014|00000', "$step=cancel", $commit->());
		}
	}
	check("$kind, PANIC at $_", $kind, 'either', 'lost|00000', "$_=panic", 'BEGIN', $statements{$kind}->(++$number), 'COMMIT')
		for $kind eq 'plain' ? qw(commit_begin log_copied) : qw(precommit_prepared commit_mixed_begin);
}

# ---- An error after the last check -------------------------------------------------------------------------------

# Core finds only after the callbacks that it cannot empty a table that another, which stays as it is, refers to.
my @late_error = (
	'CREATE TEMPORARY TABLE referred (id int PRIMARY KEY) ON COMMIT DELETE ROWS',
	'CREATE TEMPORARY TABLE refers (id int REFERENCES referred) ON COMMIT PRESERVE ROWS');

for my $kind (qw(plain mixed large)) {
	check("$kind, error of core's after the last check", $kind, 'absent', '0A000', '', 'BEGIN', @late_error,
		$statements{$kind}->(++$number), 'COMMIT');
}

# ---- Abort -------------------------------------------------------------------------------------------------------

my %harmless = (cancel => '00000|0A000|22012|57014', terminate => 'lost|00000');

for my $kind (qw(plain mixed large)) {
	my %aborts = (
		rollback => sub { ('BEGIN', $statements{$kind}->(++$number), 'ROLLBACK') },
		error => sub { ('BEGIN', $statements{$kind}->(++$number), 'SELECT 1 / 0') },
		'late error' => sub { ('BEGIN', @late_error, $statements{$kind}->(++$number), 'COMMIT') });
	for my $how (sort keys %aborts) {
		for my $step (qw(abort_begin abort_end)) {
			for my $action (sort keys %harmless) {
				my ($session, $state) = run_with_fault("$step=$action", $aborts{$how}->());
				my $found = join ' ', faults_found($kind, 'absent');
				is($found, '', "$kind, $how, $action at $step: " . ($state // 'lost'));
			}
		}
	}
	check("$kind, $_->[0], $_->[1]", $kind, 'absent', 'lost', $_->[1], $aborts{ $_->[0] }->())
		for [ 'late error', 'abort_begin=kill' ], [ 'rollback', 'abort_end=panic' ];
}

# ---- Subtransactions ---------------------------------------------------------------------------------------------

for my $kind (qw(plain mixed large)) {
	my $undo = sub {
		('BEGIN', 'SAVEPOINT s', "UPDATE account SET amount = 7\\; UPDATE large SET owner = -1 WHERE id < 9", 'ROLLBACK TO s',
			$statements{$kind}->(++$number), 'COMMIT') };
	my $release = sub { ('BEGIN', 'SAVEPOINT s', $statements{$kind}->(++$number), 'RELEASE s', 'COMMIT') };
	check("$kind, terminate at the end of an aborted subtransaction", $kind, 'absent', 'lost',
		'subtransaction_abort=terminate', $undo->());
	check("$kind, cancel at the end of an aborted subtransaction", $kind, 'either', '00000|57014',
		'subtransaction_abort=cancel', $undo->());
	check("$kind, $_ at the end of an aborted subtransaction", $kind, 'absent', 'lost', "subtransaction_abort=$_",
		$undo->()) for qw(kill panic);
	check("$kind, error at the end of a subtransaction", $kind, 'absent', 'XX000', 'subtransaction_commit=error',
		$release->());
	check("$kind, $_ at the end of a subtransaction", $kind, 'absent', 'lost', "subtransaction_commit=$_", $release->())
		for qw(fatal terminate kill);
	check("$kind, cancel at the end of a subtransaction", $kind, 'either', '00000|57014', 'subtransaction_commit=cancel',
		$release->());
}
{
	my $session = AidbSession->connect_until($node);
	$session->rows($_) for 'BEGIN', 'SAVEPOINT a', $statements{mixed}->(++$number), 'SAVEPOINT b',
		$statements{plain}->(++$number), "SET LOCAL aidb.fault_point = 'subtransaction_commit=error'";
	is($session->run('RELEASE b'), 'XX000', 'the end of a subtransaction fails');
	$session->rows($_) for 'ROLLBACK TO a', $statements{large}->(++$number), 'COMMIT';
	is(join(',', $session->rows("SELECT number = $number FROM ledger ORDER BY number DESC LIMIT 2")), 't,f',
		'rolled back to a savepoint, the transaction goes on and commits the rest');
	is(join("\n", faults_found('large', 'present')), '', 'and only that');
}

# ---- The end -----------------------------------------------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
$observer->close;
$node->restart;
is($node->safe_psql('postgres', $balance), '', 'and all is right after a restart');
done_testing();
