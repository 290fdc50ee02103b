# A store that cannot write: its file system is full, or its directory may not be written to. Commits are refused with a
# clear error, reads go on, nothing acknowledged is lost, and once there is room again writes go on by themselves.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $step = 100;       # rows of one commit, of a kilobyte each
my $most_steps = 2000; # until the disk must be full

# Commits the next rows; the SQLSTATE.
sub insert {
	my ($session, $rows) = @_;
	my ($first, $last) = ($rows + 1, $rows + $step);
	return $session->run(<<"SQL") // die 'connection lost';
INSERT INTO item SELECT i, (SELECT string_agg(md5(concat(i, j, random())), '') FROM generate_series(1, 32) j)
	FROM generate_series($first, $last) i
SQL
}

sub fill {
	my ($session, $rows) = @_;
	for (1 .. $most_steps) {
		my $state = insert($session, $rows);
		return ($rows, $state) if $state ne '00000';
		$rows += $step;
	}
	return ($rows, '00000');
}

# Tries until it works.
sub insert_until {
	my ($session, $rows) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.1 while insert($session, $rows) ne '00000' && time < $deadline;
	return $rows + $step;
}

sub error_of {
	my ($node, $sql) = @_;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $error;
}

# Transactions of all kinds are refused as a whole, and those that roll back do so.
sub check_refused {
	my ($session, $rows, $state) = @_;
	my $insert = "INSERT INTO item SELECT i, repeat(md5(i::text), 32) FROM generate_series(-3000, -1001) i";
	my %transactions = (
		'of many batches' => [ $insert ],
		'of many batches, asynchronous' => [ 'SET LOCAL synchronous_commit = off', $insert ],
		'mixed' => [ 'INSERT INTO heap VALUES (3)', "$insert WHERE i < -2300" ],
		'mixed of many batches' => [ 'INSERT INTO heap VALUES (4)', $insert ],
		'with savepoints' => [ 'SAVEPOINT s', $insert, 'ROLLBACK TO s', 'SAVEPOINT t', $insert, 'RELEASE t' ]);
	for my $name (sort keys %transactions) {
		is($session->transaction(@{ $transactions{$name} }), $state, "a transaction $name is refused");
	}
	is($session->run("BEGIN\\; $insert\\; INSERT INTO heap VALUES (5)\\; ROLLBACK"), '00000', 'one that rolls back does so');
	is(join(',', $session->rows('SELECT count(*), count(DISTINCT v), max(k) FROM item')), "$rows|$rows|$rows",
		'and nothing of them is there');
	is(join(',', $session->rows('SELECT count(*) FROM heap')), '1', 'nor on the heap');
	my $held = join ', ', $session->rows(<<'SQL');
SELECT name || ': ' || value FROM aidb.stats() WHERE value <> (name = 'snapshots')::int
	AND name IN ('snapshots', 'readers', 'reservations', 'reserved_bytes', 'row_locks', 'asynchronous_commits')
SQL
	is($held, '', 'nor is anything held for them');
	return;
}

# What must hold while writes fail, and after there is room again.
sub check_full {
	my ($node, $rows, $state, $make_room) = @_;
	my $session = AidbSession->connect($node);
	my $error = error_of($node, <<'SQL');
INSERT INTO item SELECT i, repeat(md5(i::text), 32) FROM generate_series(-1000, -1) i
SQL
	like($error, qr/ERROR:  $state: could not .*DETAIL:  [^\n]*aidb.*HINT:  /s, 'with detail and hint');
	is(join(',', $session->rows('SELECT count(*), count(DISTINCT v), max(k) FROM item')), "$rows|$rows|$rows",
		'all acknowledged rows can be read, and no others');
	is(join(',', $session->rows('SELECT count(*) FROM heap')), '1', 'heap tables can be read');
	check_refused($session, $rows, $state);
	$session->rows('INSERT INTO heap VALUES (2)');
	$make_room->($session);
	$rows = insert_until($session, $rows);
	is(join(',', $session->rows('SELECT count(*) FROM item')), $rows, 'with room again, writes go on');
	is($session->run('SELECT aidb.flush()'), '00000', 'and flushes');
	is(join(',', $session->rows('SELECT status FROM aidb.health()')), 'ok', 'health is ok');
	my ($pid) = $session->rows('SELECT pg_backend_pid()');
	$node->crash_backend($pid);
	is($node->safe_psql('postgres', 'SELECT count(*), max(k) FROM item'), "$rows|$rows", 'a crash loses nothing');
	unlike(slurp_file($node->logfile), qr/PANIC/, 'and there was no panic');
	return;
}

my $tables = <<'SQL';
CREATE TABLE heap AS SELECT 1 AS k;
CREATE FOREIGN TABLE item (k int PRIMARY KEY, v text) SERVER aidb;
SQL

# ---- A full file system ------------------------------------------------------------------------------------------

# Starts a server in name spaces of its own, in which a small file system lies over one of its directories. Only
# the server's processes see it, so whatever is done with its files is done by the server.
sub start_on_small_disk {
	my ($node, $directory, $size) = @_;
	my ($data, $log) = ($node->data_dir, $node->logfile);
	my ($user, $group) = ($>, (split / /, $))[0]);
	mkdir "$data/$directory" or die $!;
	local %ENV = $node->_get_env;
	system_or_bail('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', <<"SH");
mount -t tmpfs -o size=$size,mode=700 tmpfs '$data/$directory' &&
exec unshare --user --map-user=$user --map-group=$group pg_ctl -w -D '$data' -l '$log' start
SH
	$node->_update_pid(1);
	return;
}

# A transaction that finds room for some of its batches and not for all leaves nothing, not even the disk full.
sub fill_in_the_middle {
	my ($node) = @_;
	my $session = AidbSession->connect_until($node);
	my ($rows) = $session->rows('SELECT count(*) FROM item');
	is($session->transaction('INSERT INTO heap VALUES (6)', <<"SQL"), '53100', 'a transaction fills the disk');
INSERT INTO item SELECT i, (SELECT string_agg(md5(concat(i, j, random())), '') FROM generate_series(1, 32) j)
	FROM generate_series(-30000, -1001) i
SQL
	is(join(',', $session->rows('SELECT count(*), (SELECT count(*) FROM heap WHERE k = 6) FROM item')), "$rows|0",
		'and nothing of it is there');
	$rows = insert_until($session, $rows);
	is(join(',', $session->rows('SELECT count(*) FROM item')), $rows, 'after it, writes go on');
	return;
}

my $can_mount = system('unshare --user --map-root-user --mount sh -c "mount -t tmpfs tmpfs /mnt" 2>/dev/null') == 0;
my $cannot = 'this machine does not let users mount file systems of their own';

SKIP: {
	skip $cannot, 21 unless $can_mount;
	my $node = AidbNode->create('small', memory => '16MB', conf => 'log_statement = none');
	start_on_small_disk($node, 'aidb', '24m');
	$node->safe_psql('postgres', "CREATE EXTENSION aidb; $tables");
	my $session = AidbSession->connect($node);
	$session->rows("COPY (SELECT 1) TO PROGRAM 'head -c 8000000 /dev/zero > aidb/ballast'");
	my ($rows, $state) = fill($session, 0);
	is($state, '53100', "the disk is full after $rows rows, and the commit is refused");
	check_full($node, $rows, $state, sub { $_[0]->rows("COPY (SELECT 1) TO PROGRAM 'rm aidb/ballast'") });
	fill_in_the_middle($node);
	$node->stop;
}

# ---- No room for what a transaction spills -------------------------------------------------------------------------

SKIP: {
	skip $cannot, 5 unless $can_mount;
	my $node = AidbNode->create('temporary', conf => "maintenance_work_mem = '1MB'\nlog_statement = none");
	start_on_small_disk($node, 'base/pgsql_tmp', '4m');
	$node->safe_psql('postgres', "CREATE EXTENSION aidb; $tables");
	my $big = "INSERT INTO item SELECT i, repeat('x', 1000) FROM generate_series(2, 10000) i";
	like(error_of($node, $big), qr/ERROR:  53100: could not write to temporary file .*HINT:  /s,
		'a transaction that has no room for its changes is refused, with a hint');
	my $session = AidbSession->connect($node);
	$session->rows('BEGIN; INSERT INTO item VALUES (1); SAVEPOINT a');
	is($session->run($big), '53100', 'so is a statement');
	$session->rows('ROLLBACK TO a; COMMIT');
	is(join(',', $session->rows('SELECT k FROM item')), 1, 'what was before it commits');
	is(join(',', $session->rows('SELECT count(*) FROM pg_ls_tmpdir()')), 0, 'and the room is free again');
	unlike(slurp_file($node->logfile), qr/PANIC|WARNING/, 'with no panic or warning');
	$node->stop;
}

# ---- A directory that may not be written to ----------------------------------------------------------------------

{
	my $node = AidbNode->launch('readonly', memory => '16MB', conf => 'log_statement = none');
	$node->safe_psql('postgres', $tables);
	my $session = AidbSession->connect($node);
	my $rows = insert_until($session, 0);
	chmod 0500, $node->data_dir . '/aidb';
	(my $all, my $state) = fill($session, $rows);
	isnt($state, '00000', "in a read-only directory, a commit is refused after $all rows");
	check_full($node, $all, $state, sub { chmod 0700, $node->data_dir . '/aidb' });
	$node->stop;
}
done_testing();
