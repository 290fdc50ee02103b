# What is committed is there after every way for a server to end; single-user mode; a standby, which has no AiDb data.
#
# Each round commits numbers in three ways: into an AiDb table, into a heap table and an AiDb table together, and into a
# key space. Then the server ends, while a session is still connected that has not committed its rows.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = 12; # numbers of each kind in a batch

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
wal_level = replica
max_wal_senders = 5
max_connections = 20
shared_buffers = 4MB
CONF

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE heap (n int);
CREATE FOREIGN TABLE plain (n int PRIMARY KEY, filler text) SERVER aidb;
CREATE FOREIGN TABLE mixed (n int PRIMARY KEY) SERVER aidb;
SELECT aidb.put('space', '0', ''); -- makes it: who does keeps others out until commit
SELECT aidb.delete('space', '0');
SQL

my $last = 0; # number

# Commits the next numbers; dies when one of them fails.
sub commit_batch {
	my ($session, $synchronous) = @_;
	$session->rows("SET synchronous_commit = $synchronous");
	for (1 .. $rounds) {
		$last++;
		$session->rows("INSERT INTO plain VALUES ($last)");
		$session->rows("SELECT aidb.put('space', '$last', 'value of $last')");
		my $state = $session->transaction("INSERT INTO heap VALUES ($last)", "INSERT INTO mixed VALUES ($last)");
		die "SQLSTATE $state" unless $state eq '00000';
	}
	return;
}

# How many of the numbers are there, in each of the places; -1 when they are not the first that were committed.
sub present {
	my ($on) = @_;
	my $places = join ' UNION ALL ',
		map { "SELECT '$_->[0]' AS place, count(*), max(n) FROM $_->[1]" }
		[ heap => 'heap' ], [ mixed => 'mixed' ], [ plain => 'plain WHERE n > 0' ],
		[ space => "(SELECT convert_from(key, 'UTF8')::int AS n FROM aidb.scan('space')
			WHERE value = ('value of ' || convert_from(key, 'UTF8'))::bytea) s" ];
	my @rows = split /\n/, $on->safe_psql('postgres',
		"SELECT place, CASE WHEN count = coalesce(max, 0) THEN count ELSE -1 END FROM ($places) p ORDER BY place");
	return map { split /\|/ } @rows;
}

sub all_there {
	my ($name) = @_;
	my %present = present($node);
	is_deeply(\%present, { map { $_ => $last } qw(heap mixed plain space) }, "$name: everything committed is there");
	is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', "$name: the store is well");
	return;
}

# A session that is connected while the server ends, with rows that it has not committed.
sub open_transaction {
	my $session = AidbSession->connect($node) or die 'no connection';
	$session->rows('BEGIN');
	$session->rows("INSERT INTO $_ VALUES (-1)") for qw(heap mixed plain);
	$session->rows("SELECT aidb.put('space', '-1', 'not committed')");
	return $session;
}

# The whole text of an error.
sub refusal {
	my ($on, $sql) = @_;
	my ($status, $output, $error) = $on->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $status == 0 ? "no error, but: $output" : $error;
}

# Waits until the server accepts no connections any more.
sub wait_until_refused {
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline) {
		my $session = AidbSession->connect($node) or return 1;
		$session->close;
		sleep 0.05;
	}
	return 0;
}

# ---- Fast shutdown and restart -----------------------------------------------------------------------------------

for my $synchronous (qw(on off)) {
	my %ways = (
		'fast shutdown' => sub { $node->stop('fast'); $node->start },
		'restart' => sub { $node->restart });

	for my $way (sort keys %ways) {
		my $busy = open_transaction();
		commit_batch(AidbSession->connect($node), $synchronous); # which leaves at the end
		my $idle = AidbSession->connect($node);
		commit_batch($idle, $synchronous); # is still connected
		$ways{$way}->();
		is($busy->run('COMMIT'), undef, "$way: the session has ended");
		all_there("$way, synchronous_commit $synchronous");
	}
}

# ---- Smart shutdown ----------------------------------------------------------------------------------------------

for my $synchronous (qw(on off)) {
	my $session = AidbSession->connect($node);
	my $postmaster = $node->{_pid};

	system_or_bail('pg_ctl', '-D', $node->data_dir, '-m', 'smart', '--no-wait', 'stop');
	ok(wait_until_refused(), 'a smart shutdown takes no new sessions');
	commit_batch($session, $synchronous);
	ok(-d "/proc/$postmaster", 'and waits for those there are, which commit');
	$session->close;
	AidbNode::wait_gone($postmaster);
	$node->_update_pid(0);
	$node->start;
	all_there("smart shutdown, synchronous_commit $synchronous");
}

# ---- Immediate shutdown ------------------------------------------------------------------------------------------

{
	my $busy = open_transaction();
	my $session = AidbSession->connect($node);
	commit_batch($session, 'on');
	$node->stop('immediate');
	$node->start;
	all_there('immediate shutdown, synchronous_commit on');
}

{
	my $busy = open_transaction();
	my $session = AidbSession->connect($node);
	my $durable = $last;
	commit_batch($session, 'off');
	$node->stop('immediate');
	$node->start;

	my %present = present($node);
	my @short = grep { $present{$_} < $durable } sort keys %present;
	is("@short", '', 'immediate shutdown, synchronous_commit off: only the last commits may be lost');
	is($present{mixed}, $present{heap}, 'and of both tables the same');
	$node->safe_psql('postgres', <<"SQL");
DELETE FROM heap WHERE n > $durable;
DELETE FROM mixed WHERE n > $durable;
DELETE FROM plain WHERE n > $durable;
SELECT count(aidb.delete('space', key)) FROM aidb.scan('space') WHERE convert_from(key, 'UTF8')::int > $durable;
SQL
	$last = $durable;
	all_there('after taking back the rest');
}

# ---- Single-user mode --------------------------------------------------------------------------------------------

# Runs lines of SQL; what it printed, output and errors.
sub single_user {
	my (@lines) = @_;
	my $input = join "\n", @lines, '';
	my $output = '';
	my $ended = IPC::Run::run([ 'postgres', '--single', '-F', '-D', $node->data_dir, 'postgres' ],
		'<', \$input, '>', \$output, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	note $output;
	return $ended ? $output : "failed: $output";
}

{
	my $bulk = 4; # statements that write as much as all memtables take; nobody else is there to flush them
	my $bulk_rows = 3000;
	my @statements = map { my $from = -$_ * $bulk_rows;
		"INSERT INTO plain SELECT $from + i, repeat(i::text, 500) FROM generate_series(0, $bulk_rows - 1) i" } 1 .. $bulk;

	$node->stop('fast');
	my $first = $last + 1;
	$last += $rounds;
	my $numbers = "generate_series($first, $last) n";
	my $output = single_user(
		"INSERT INTO plain SELECT n FROM $numbers",
		"INSERT INTO plain VALUES ($first)", # fails
		"WITH h AS (INSERT INTO heap SELECT n FROM $numbers RETURNING n) INSERT INTO mixed SELECT n FROM h",
		'SET synchronous_commit = off',
		"SELECT aidb.put('space', n::text::bytea, ('value of ' || n)::bytea) FROM $numbers",
		@statements,
		"SELECT 'sum ' || sum(n) AS answer FROM plain WHERE n > 0",
		"SELECT 'bulk ' || sum(length(filler)) AS answer FROM plain WHERE n < 0",
		"SELECT 'health ' || status AS answer FROM aidb.health()");
	my $expected = $last * ($last + 1) / 2;
	my $length = $bulk * 500 * (10 + 90 * 2 + 900 * 3 + ($bulk_rows - 1000) * 4);
	like($output, qr/"sum $expected"/, 'single-user mode writes and reads rows');
	like($output, qr/"bulk $length"/, 'as many as it likes');
	like($output, qr/duplicate key value violates unique constraint/, 'and goes on after an error');
	like($output, qr/"health ok"/, 'on a store that is well');
	$node->start;
	all_there('single-user mode');
	is($node->safe_psql('postgres', 'SELECT sum(length(filler)) FROM plain WHERE n < 0'), $length, 'bulk rows as well');
	is($node->safe_psql('postgres', 'DELETE FROM plain WHERE n < 0; SELECT count(*) FROM plain'), $last, 'which can go');
}

# ---- A standby ---------------------------------------------------------------------------------------------------

{
	my $standby = bless PostgreSQL::Test::Cluster->new('standby'), 'AidbNode';
	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	commit_batch(AidbSession->connect($node), 'on');
	$node->wait_for_catchup($standby);

	my %statements = (
		'a table' => 'SELECT count(*) FROM plain',
		'a look-up' => 'SELECT * FROM plain WHERE n = 1',
		'a join' => 'SELECT count(*) FROM heap JOIN mixed USING (n)',
		'a key space' => "SELECT aidb.get('space', '1')",
		'a scan of a key space' => "SELECT * FROM aidb.scan('space')");
	for my $what (sort keys %statements) {
		my $error = refusal($standby, $statements{$what});
		like($error, qr/ERROR:  0A000: AiDb tables cannot be used on a standby server/, "a standby refuses $what");
		like($error, qr/HINT:  Connect to the primary server/, 'and says where it is');
	}
	like(refusal($standby, 'INSERT INTO plain VALUES (0)'), qr/ERROR:  (25006|0A000): /, 'a standby refuses to write');
	like(refusal($standby, "SELECT aidb.put('space', '0', '0')"), qr/ERROR:  (25006|0A000): /, 'into key spaces too');
	is($standby->safe_psql('postgres', 'SELECT count(*), max(n) FROM heap'), "$last|$last", 'heap tables can be read');
	is($standby->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'unavailable', 'the health says so');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_foreign_table"), '2', 'the catalog can be read');
	is($standby->safe_psql('postgres', 'EXPLAIN SELECT * FROM heap') =~ /Seq Scan on heap/, 1, 'and plans be made');
	$standby->stop('fast');
	unlike(slurp_file($standby->logfile), qr/PANIC|terminated by signal/, 'no process of it crashed');
}

# ---- The end -----------------------------------------------------------------------------------------------------

all_there('at the end');
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no process crashed');
done_testing();
