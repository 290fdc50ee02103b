# Dies at every named step of a commit, and shows that the transaction is then there as a whole or not at all, that
# nothing acknowledged is missing, and that no reader ever saw a part of one.
#
# Money moves between accounts in a heap table and an AiDb table (mixed), between two rows of an AiDb table (plain), and
# a transaction too large for one record of the log rewrites all rows of a table (large). Ledgers say which transactions
# there are, so the balances can be computed. While that happens, two readers check what must hold at any moment, and
# another writer contends for the same rows and notes what was acknowledged to it.
use strict;
use warnings;
use AidbJournal;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{AIDB_SEED} // time ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $large_rows = 600;
my $accounts = 4;
my $rest_s = 0.005; # of the others between two of their transactions, so that they do not take the whole machine
my $writer_base = 1_000_000; # numbers of the other writer's transactions start here
my $acknowledged_file = "$PostgreSQL::Test::Utils::tmp_check/acknowledged";
my $findings_file = "$PostgreSQL::Test::Utils::tmp_check/findings";

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 4MB
log_statement = none
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE TABLE heap_account (id int PRIMARY KEY, amount bigint);
CREATE FOREIGN TABLE account (id int PRIMARY KEY, amount bigint) SERVER aidb;
CREATE FOREIGN TABLE pair (id int PRIMARY KEY, amount bigint) SERVER aidb;
CREATE FOREIGN TABLE large (id int PRIMARY KEY, owner int, filler text) SERVER aidb;
CREATE FOREIGN TABLE ledger (number int PRIMARY KEY, kind text, source int, target int, amount bigint) SERVER aidb;
CREATE TABLE heap_ledger (number int PRIMARY KEY, source int, target int, amount bigint);
CREATE TABLE burnt (number int);
INSERT INTO heap_account SELECT i, 1000 FROM generate_series(1, $accounts) i;
INSERT INTO account SELECT i, 1000 FROM generate_series(1, $accounts) i;
INSERT INTO pair VALUES (1, 1000), (2, 1000);
INSERT INTO large SELECT i, 0, repeat('x', 1000) FROM generate_series(1, $large_rows) i;
SQL

# What holds at any moment, in one statement: nothing when it does.
my $moment = <<"SQL";
SELECT 'sum of heap and AiDb accounts' WHERE (SELECT sum(amount) FROM heap_account) + (SELECT sum(amount) FROM account)
	IS DISTINCT FROM 2000 * $accounts
UNION ALL SELECT 'sum of the pair' WHERE (SELECT sum(amount) FROM pair) IS DISTINCT FROM 2000
UNION ALL SELECT 'owners of the large table' WHERE (SELECT count(DISTINCT owner) FROM large) <> 1
SQL
chomp $moment;

# What the ledgers say: nothing when all is as they say.
my $balance = <<"SQL";
SELECT 'ledgers differ in ' || number FROM (SELECT number FROM ledger WHERE kind = 'mixed') l
	FULL JOIN heap_ledger USING (number) WHERE l IS NULL OR heap_ledger IS NULL
UNION ALL SELECT 'heap account ' || id FROM heap_account
	LEFT JOIN (SELECT source, sum(amount) FROM ledger WHERE kind = 'mixed' GROUP BY 1) l ON source = id
	WHERE amount <> 1000 - coalesce(sum, 0)
UNION ALL SELECT 'account ' || id FROM account
	LEFT JOIN (SELECT target, sum(amount) FROM ledger WHERE kind = 'mixed' GROUP BY 1) l ON target = id
	WHERE amount <> 1000 + coalesce(sum, 0)
UNION ALL SELECT 'pair' WHERE (SELECT amount FROM pair WHERE id = 1) <> 1000
	+ (SELECT coalesce(sum(CASE target WHEN 1 THEN amount ELSE -amount END), 0) FROM ledger WHERE kind = 'plain')
UNION ALL SELECT 'large table' WHERE (SELECT min(owner) FROM large) <>
	(SELECT coalesce(max(number), 0) FROM ledger WHERE kind = 'large')
SQL
chomp $balance;

# ---- Transactions ------------------------------------------------------------------------------------------------

# The statements of transaction `number`.
sub statements {
	my ($kind, $number) = @_;
	my $amount = 1 + int rand 50;
	if ($kind eq 'large') {
		return ("UPDATE large SET owner = $number", "INSERT INTO ledger VALUES ($number, 'large', 0, 0, 0)");
	}
	if ($kind eq 'plain') {
		my $source = 1 + int rand 2;
		my $target = 3 - $source;
		return (
			"UPDATE pair SET amount = amount - $amount WHERE id = $source",
			"UPDATE pair SET amount = amount + $amount WHERE id = $target",
			"INSERT INTO ledger VALUES ($number, 'plain', $source, $target, $amount)");
	}
	my ($source, $target) = map { 1 + int rand $accounts } 1 .. 2;
	$amount = -$amount if rand() < 0.5;
	return (
		"UPDATE heap_account SET amount = amount - $amount WHERE id = $source",
		"INSERT INTO heap_ledger VALUES ($number, $source, $target, $amount)",
		"UPDATE account SET amount = amount + $amount WHERE id = $target",
		"INSERT INTO ledger VALUES ($number, 'mixed', $source, $target, $amount)");
}

# Runs it until it is not the victim of a deadlock with the other writer. The SQLSTATE; undef when the connection is lost.
sub transact {
	my ($session, $kind, $number) = @_;
	for (1 .. 1000) {
		my $state = $session->transaction(statements($kind, $number));
		return $state unless defined $state && $state eq '40P01';
	}
	die 'no end of deadlocks';
}

# ---- The others --------------------------------------------------------------------------------------------------

my @others;
my $stop_file = "$PostgreSQL::Test::Utils::tmp_check/stop";

# Runs code with a session, again and again, reconnecting after every crash, until told to stop.
sub repeat {
	my ($code) = @_;
	until (-e $stop_file) {
		my $session = AidbSession->connect_until($node);
		sleep $rest_s until -e $stop_file || !defined eval { $code->($session) };
		append($findings_file, "error: $@") if $@ && $@ !~ /connection lost/;
	}
	return;
}

sub in_background {
	my ($code) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		srand $seed + @others;
		eval { repeat($code); 1 } or append($findings_file, "error: $@");
		POSIX::_exit(0);
	}
	push @others, $pid;
	return;
}

my $checks_file = "$PostgreSQL::Test::Utils::tmp_check/checks";

sub read_statement {
	my ($session) = @_;
	append($findings_file, "seen by one statement: $_") for $session->rows($moment);
	append($checks_file, '1');
	return 1;
}

# The heap first, AiDb much later: both are to be of the moment of the first.
sub read_transaction {
	my ($session) = @_;
	my ($sum) = eval {
		my ($heap) = $session->rows('BEGIN ISOLATION LEVEL REPEATABLE READ\; SELECT sum(amount) FROM heap_account');
		$session->rows('SELECT count(*) FROM large');
		my ($aidb) = $session->rows('SELECT sum(amount) FROM account');
		$heap + $aidb;
	};
	die $@ unless defined $sum;
	append($findings_file, "seen by one transaction: a sum of $sum") if $sum != 2000 * $accounts;
	$session->rows('COMMIT');
	append($checks_file, '1');
	return 1;
}

my $writer_number = $writer_base;

sub write_on {
	my ($session) = @_;
	my $number = $writer_number++;
	my $state = transact($session, rand() < 0.5 ? 'mixed' : 'plain', $number) // return;
	die "transaction $number failed with SQLSTATE $state" if $state ne '00000';
	append($acknowledged_file, $number);
	return 1;
}

sub stop_others {
	append($stop_file, 'stop');
	waitpid $_, 0 for @others;
	return;
}

END {
	my $status = $?;
	stop_others() if @others && $$ == $main::test_pid;
	$? = $status;
}
our $test_pid = $$;

in_background($_) for \&read_statement, \&read_transaction, \&write_on;

# ---- What must hold after a restart ------------------------------------------------------------------------------

# What is wrong now. First some heap transactions come and go, which may get the ids of those that died.
sub faults_found {
	my ($session) = @_;
	my @acknowledged = lines_of($acknowledged_file);
	$session->rows('INSERT INTO burnt VALUES (1)') for 1 .. 4;
	my @found = $session->rows("$moment UNION ALL $balance");
	my %present = map { $_ => 1 } $session->rows("SELECT number FROM ledger WHERE number >= $writer_base");
	push @found, map { "acknowledged transaction $_ is missing" } grep { !$present{$_} } @acknowledged;
	push @found, lines_of($findings_file);
	return @found;
}

my $number = 0;

# Waits for the postmaster to restart the others; when it was killed itself, starts another once its children have gone.
sub recover {
	my ($action, $restarts) = @_;
	return $node->wait_restart($restarts) if $action ne 'kill-all';
	AidbNode::wait_gone($_) for $node->processes;
	$node->crash;
	$node->start;
	return;
}

# Kills a transaction of this kind at this step. `fate` is what must have become of it: absent, present, either.
sub kill_at {
	my ($kind, $synchronous, $point, $action, $fate) = @_;
	my $name = "$kind, synchronous_commit $synchronous, $action at $point";
	my $restarts = $node->restarts;
	my $session = AidbSession->connect_until($node);

	$session->rows("SET synchronous_commit = $synchronous");
	transact($session, 'mixed', ++$number); # with off it may be lost, but as a whole
	$session->rows("SET aidb.fault_point = '$point=$action'");
	my $state = '00000';
	for (my $tries = 0; defined $state && $tries < 100; $tries++) { # another may write or sync the log for it
		$state = transact($session, $kind, ++$number);
	}
	if (defined $state) {
		fail("$name: the step was not reached, SQLSTATE $state");
		return;
	}
	recover($action, $restarts);
	$session = AidbSession->connect_until($node);
	my @found = faults_found($session);
	my ($there) = $session->rows("SELECT count(*) FROM ledger WHERE number = $number");
	push @found, "the transaction is there: $there, which should be $fate"
		if $fate ne 'either' && $there != ($fate eq 'present');
	is(join("\n", @found), '', "$name: " . ($there ? 'all there' : 'nothing there'));
	return;
}

# ---- Kill at each step -------------------------------------------------------------------------------------------

my @common = (
	[ precommit_begin => 'absent' ]);

# Those of a transaction that PostgreSQL's commit record decides on: so many steps before it.
sub prepared_steps {
	my @before = (@common, map { [ $_ => 'absent' ] } @_, qw(precommit_piece_prepared precommit_prepared));
	return {
		on => [ @before, [ commit_mixed_begin => 'present' ], [ commit_mixed_end => 'present' ]],
		off => [ @before, [ commit_mixed_begin => 'either' ], [ commit_mixed_end => 'either' ]]};
}

# log_written and log_synced: the writer may be at it for others, while an earlier record is missing before its own.
my %steps = (
	plain => {
		on => [
			@common,
			[ precommit_reserved => 'absent' ],
			[ commit_begin => 'absent' ],
			[ sequence_taken => 'absent' ],
			[ log_copied => 'either' ],
			[ memtable_inserted => 'either' ],
			[ log_written => 'either' ],
			[ log_synced => 'either' ],
			[ published => 'present' ],
			[ commit_end => 'present' ]],
		off => [
			@common,
			[ precommit_reserved => 'absent' ],
			[ commit_begin => 'absent' ],
			[ sequence_taken => 'absent' ],
			[ log_copied => 'either' ],
			[ memtable_inserted => 'either' ],
			[ published => 'either' ],
			[ commit_end => 'either' ]]},
	mixed => prepared_steps(qw(log_copied memtable_inserted published precommit_carry)),
	large => prepared_steps(qw(log_copied memtable_inserted log_written log_synced published)));

for my $kind (qw(plain mixed large)) {
	for my $synchronous (qw(on off)) {
		for my $step (@{ $steps{$kind}{$synchronous} }) {
			kill_at($kind, $synchronous, $step->[0], $_, $step->[1]) for qw(kill kill-all);
		}
	}
}

# ---- Errors before the point of no return ------------------------------------------------------------------------

sub fail_at {
	my ($session, $kind, $point) = @_;
	$session->rows("SET aidb.fault_point = '$point=error'");
	my $state = transact($session, $kind, ++$number) // 'connection lost';
	$session->rows("RESET aidb.fault_point");
	my ($there) = $session->rows("SELECT count(*) FROM ledger WHERE number = $number");
	my $again = transact($session, $kind, ++$number) // 'connection lost';
	is("$state $there $again", 'XX000 0 00000', "$kind, error at $point: nothing there, and the next one commits");
	return;
}

{
	my $session = AidbSession->connect_until($node);
	my @steps = qw(precommit_begin);
	fail_at($session, 'plain', $_) for @steps, 'precommit_reserved';
	for my $kind (qw(mixed large)) {
		fail_at($session, $kind, $_) for @steps, qw(precommit_piece_prepared precommit_prepared);
	}
	is(join("\n", faults_found($session)), '', 'all is whole after the errors');
}

# ---- Pauses, which give readers time to look ---------------------------------------------------------------------

{
	my $session = AidbSession->connect_until($node);
	my $before = lines_of($checks_file);
	my %count;
	for my $kind (qw(plain mixed large)) {
		for my $step (@{ $steps{$kind}{on} }) {
			$session->rows("SET aidb.fault_point = '$step->[0]=pause'");
			$count{ $session->transaction(statements($kind, ++$number)) // 'connection lost' }++;
		}
	}
	$session->rows('RESET aidb.fault_point');
	my $committed = delete $count{'00000'};
	delete $count{'40P01'};
	is(join(', ', %count), '', "of the transactions that paused, $committed committed, and no other had any error but that of a deadlock");
	cmp_ok($committed, '>', 10, 'enough of them');
	is(join("\n", faults_found($session)), '', 'nobody saw a part of them');
	cmp_ok(scalar(lines_of($checks_file)), '>', $before + 10, 'while readers looked on');
}

# ---- Flush, compaction and recovery ------------------------------------------------------------------------------

# Kills flushes at this step; the server's own flusher may be there first, so several are tried.
sub kill_flush {
	my ($point, $action) = @_;
	my $restarts = $node->restarts;
	my $session = AidbSession->connect_until($node);
	my $state = '00000';
	$session->rows("SET aidb.fault_point = '$point=$action'");
	for (my $tries = 0; defined $state && $tries < 100; $tries++) {
		transact($session, $_, ++$number) for qw(plain mixed large);
		$state = $session->run('SELECT aidb.flush()');
	}
	is($state, undef, "$action at $point during a flush");
	recover($action, $restarts);
	is(join("\n", faults_found(AidbSession->connect_until($node))), '', 'after which nothing is missing');
	return;
}

for my $point (qw(flush_written manifest_written)) {
	kill_flush($point, $_) for qw(kill kill-all);
}

# A process of the server reaches the step and takes all others with it.
sub die_in_server {
	my ($point, $provoke) = @_;
	transact(AidbSession->connect_until($node), $_, ++$number) for qw(plain mixed large);
	$node->stop('fast');
	$node->append_conf('postgresql.conf', "aidb.fault_point = '$point=kill-all'");
	if ($node->start(fail_ok => 1)) {
		my $postmaster = $node->{_pid};
		$provoke->();
		AidbNode::wait_gone($postmaster);
	}
	pass("the server died at $point");
	$node->append_conf('postgresql.conf', "aidb.fault_point = ''");
	recover('kill-all');
	is(join("\n", faults_found(AidbSession->connect_until($node))), '', 'after which nothing is missing');
	return;
}

die_in_server('replayed', sub { });
die_in_server('compaction_written', sub {
	my $session = AidbSession->connect($node) or return;
	for (1 .. 100) {
		last unless defined $session->run('UPDATE large SET owner = owner');
		last unless defined $session->run('SELECT aidb.flush()');
	}
});

# ---- The end -----------------------------------------------------------------------------------------------------

stop_others();
my @acknowledged = lines_of($acknowledged_file);
cmp_ok(scalar @acknowledged, '>', 100, 'the other writer got on');
cmp_ok(scalar(lines_of($checks_file)), '>', 100, 'the readers got on');
is(join("\n", faults_found(AidbSession->connect_until($node))), '', 'nothing is missing at the end');
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
done_testing();
