# A standby: it is copied, follows everything that its primary does to AiDb tables, answers reads, refuses writes, and goes on
# after whatever happens to either of the two.
use strict;
use warnings;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $primary = AidbNode->launch('primary', fsync => 'on');
my $standby = AidbNode->launch('standby', fsync => 'on');
my $conninfo = 'host=' . $primary->host . ' port=' . $primary->port . ' dbname=postgres user=replicator';

# What a statement printed on stderr, with SQLSTATE, detail and hint.
sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

# Waits until the standby has all that is committed now.
sub catch_up {
	my $upto = $primary->safe_psql('postgres', 'SELECT sequence FROM aidb.node_status()');
	return if $standby->poll_query_until('postgres',
		"SELECT state = 'streaming' AND applied >= $upto FROM aidb.node_status()");
	die 'the standby does not catch up: ' . $standby->safe_psql('postgres', 'SELECT * FROM aidb.node_status()');
}

# The same statement gives the same on both, once the standby has caught up.
sub same {
	my ($sql, $name) = @_;
	catch_up();
	is($standby->safe_psql('postgres', $sql), $primary->safe_psql('postgres', $sql), $name);
	return;
}

# Starts psql on the primary with these statements.
my $scripts = 0;
sub start_script {
	my (@statements) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script' . ++$scripts;
	append_to_file($file, join "\n", @statements);
	return IPC::Run::start([ $primary->installed_command('psql'), '-XAtq', '-d', $primary->connstr('postgres'), '-f', $file ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

# ---- A copy ------------------------------------------------------------------------------------------------------

$primary->safe_psql('postgres', <<'SQL');
CREATE ROLE replicator LOGIN;
GRANT USAGE ON SCHEMA aidb TO replicator;
GRANT EXECUTE ON FUNCTION aidb.stream_open, aidb.stream_read, aidb.clone_read TO replicator;
CREATE SCHEMA shop;
CREATE FOREIGN TABLE shop.item (id int PRIMARY KEY, name text, price numeric) SERVER aidb;
CREATE FOREIGN TABLE gone (id int PRIMARY KEY) SERVER aidb;
CREATE TABLE heap (id int);
INSERT INTO shop.item SELECT n, 'item ' || n, n / 7.0 FROM generate_series(1, 20000) n;
ALTER TABLE shop.item ADD COLUMN stock int DEFAULT 5;
UPDATE shop.item SET stock = 6 WHERE id % 3 = 0;
DELETE FROM shop.item WHERE id % 10 = 0;
DROP FOREIGN TABLE gone;
SELECT aidb.put('space', '\x01', '\xaa');
SQL
like(error_of($standby, "SELECT aidb.follow('x', 'y', 'nothing')"), qr/22023.*is no role/, 'a role has a name');
like(error_of($primary, "SELECT aidb.stream_open('one')"), qr/IA002.*no primary/, 'who is alone is not followed');
$primary->safe_psql('postgres', 'SELECT aidb.become_primary()');
like(error_of($primary, "SELECT aidb.follow('$conninfo', 'x')"), qr/55000.*would lose.*discard/s,
	'tables are not thrown away unasked');
$standby->safe_psql('postgres', "SELECT aidb.follow('$conninfo', 'one')");
my $sum = 'SELECT count(*), sum(id), sum(price), sum(stock), max(name) FROM shop.item';
same($sum, 'the copy has all rows');
is($standby->safe_psql('postgres', q(SELECT aidb.get('space', '\x01'))), '\xaa', 'and key spaces');
is($standby->safe_psql('postgres', "SELECT to_regclass('gone') IS NULL"), 't', 'and no table that is gone');
is($primary->safe_psql('postgres', 'SELECT slot, lost FROM aidb.stream_slots()'), 'one|f', 'the primary keeps its log');

# ---- The stream --------------------------------------------------------------------------------------------------

$primary->safe_psql('postgres', <<'SQL');
UPDATE shop.item SET price = price + 1 WHERE id < 100;
BEGIN; INSERT INTO heap VALUES (1); INSERT INTO shop.item VALUES (50000, 'mixed', 1); COMMIT;
BEGIN; INSERT INTO heap VALUES (2); INSERT INTO shop.item VALUES (50001, 'undone', 1); ROLLBACK;
BEGIN; INSERT INTO shop.item VALUES (50002, 'kept', 1); SAVEPOINT a; INSERT INTO shop.item VALUES (50003, 'cut', 1);
ROLLBACK TO a; INSERT INTO shop.item VALUES (50004, 'kept', 1); COMMIT;
CREATE FOREIGN TABLE fresh (a text, b int, c text DEFAULT 'x', PRIMARY KEY (a, b)) SERVER aidb;
INSERT INTO fresh SELECT 'k' || n, n FROM generate_series(1, 100) n;
BEGIN; CREATE FOREIGN TABLE pair (id int PRIMARY KEY, v int) SERVER aidb; INSERT INTO pair SELECT n, n FROM generate_series(1, 1000) n; COMMIT;
BEGIN; CREATE FOREIGN TABLE never (id int PRIMARY KEY) SERVER aidb; ROLLBACK;
SELECT aidb.put('space', '\x02', '\xbb'), aidb.put('another', '\x01', '\xcc');
SQL
same($sum, 'plain and mixed transactions, savepoints');
same('SELECT count(*), min(c) FROM fresh', 'a new table');
same('SELECT count(*), sum(v) FROM pair', 'a table with its rows in one transaction');
same("SELECT to_regclass('never')", 'a table that was rolled back');
same(q(SELECT aidb.get('space', '\x02'), aidb.get('another', '\x01')), 'key spaces');
$primary->safe_psql('postgres', <<'SQL');
ALTER FOREIGN TABLE fresh ADD COLUMN at timestamptz DEFAULT now();
ALTER FOREIGN TABLE fresh RENAME COLUMN c TO d;
ALTER FOREIGN TABLE fresh RENAME TO stale;
ALTER FOREIGN TABLE stale SET SCHEMA shop;
TRUNCATE pair;
INSERT INTO pair VALUES (7, 7);
SQL
same('SELECT count(*), min(d) FROM shop.stale', 'renamed');
same('SELECT min(at), max(at) FROM shop.stale', 'a default that depends on when it was computed');
same('SELECT * FROM pair', 'truncated');
$primary->safe_psql('postgres', <<'SQL');
BEGIN; TRUNCATE pair; INSERT INTO pair VALUES (8, 8); ROLLBACK;
BEGIN; INSERT INTO shop.item VALUES (50005, 'prepared', 1); PREPARE TRANSACTION 'one';
SQL
$primary->safe_psql('postgres', 'UPDATE pair SET v = 9');
same('SELECT * FROM pair', 'a truncation that was rolled back');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM shop.item WHERE id = 50005'), '0', 'prepared is not committed');
$primary->safe_psql('postgres', "COMMIT PREPARED 'one'");
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 1 FROM shop.item WHERE id = 50005'), 'and then it is');
$primary->safe_psql('postgres', 'DROP FOREIGN TABLE shop.stale; CREATE SCHEMA s CREATE VIEW v AS SELECT 1');
same("SELECT to_regclass('shop.stale')", 'dropped');

# ---- What a standby refuses ------------------------------------------------------------------------------------------

my $port = $primary->port;
for my $sql ('INSERT INTO pair VALUES (1, 1)', 'DELETE FROM shop.item', 'TRUNCATE pair', 'DROP FOREIGN TABLE pair',
	'CREATE FOREIGN TABLE mine (id int PRIMARY KEY) SERVER aidb', q(SELECT aidb.put('space', '\x05', '\x05'))) {
	like(error_of($standby, $sql), qr/25006.*cannot write AiDb tables on a standby.*Connect to the primary at .*:$port/s, $sql);
}
same('SELECT count(*) FROM pair', 'nothing has changed');

# ---- Large transactions, and readers that see whole ones ---------------------------------------------------------------

$primary->safe_psql('postgres', <<'SQL');
INSERT INTO pair SELECT n, 0 FROM generate_series(1, 100) n ON CONFLICT DO NOTHING;
UPDATE pair SET v = 0;
SQL
catch_up();
my $writer = start_script(
	map { "UPDATE pair SET v = $_; BEGIN; UPDATE pair SET v = v + 0; INSERT INTO heap VALUES (1); COMMIT;" } 1 .. 150);
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my ($torn, $seen, $last, $back) = (0, 0, 0, 0);
while ($last < 150 && time < $deadline) {
	my ($low, $high) = split /\|/, $standby->safe_psql('postgres', 'SELECT min(v), max(v) FROM pair');
	$torn++ if $low != $high;
	$back++ if $low < $last;
	$last = $low;
	$seen++;
}
$writer->finish;
is("$torn $back", '0 0', "of $seen reads none saw part of a transaction, or time run backwards");
$primary->safe_psql('postgres', "INSERT INTO shop.item SELECT n, repeat('x', 500), 1 FROM generate_series(100001, 120000) n");
same($sum, 'a transaction that is larger than memory allows at once');

# ---- Restarts and crashes ----------------------------------------------------------------------------------------------

$standby->restart;
$primary->safe_psql('postgres', 'UPDATE shop.item SET stock = 1 WHERE id < 50');
same($sum, 'the standby was restarted');
$primary->restart;
$primary->safe_psql('postgres', 'UPDATE shop.item SET stock = 2 WHERE id < 50');
same($sum, 'the primary was restarted');
for my $round (1 .. 4) {
	my $victim = $round % 2 ? $standby : $primary;
	my $load = start_script(map {
		my $n = 200000 + $round * 1000 + $_;
		"INSERT INTO shop.item VALUES ($n, 'load', 1); BEGIN; INSERT INTO heap VALUES ($n);"
		  . "UPDATE shop.item SET stock = $n WHERE id = 1; DELETE FROM shop.item WHERE id = $n - 2; COMMIT;"
	} 1 .. 300);
	sleep(0.1 + rand(0.2));
	$victim->crash;
	$victim->start;
	$load->finish;
	same($sum, ($round % 2 ? 'standby' : 'primary') . " killed under load, round $round");
}

# ---- Falling behind ----------------------------------------------------------------------------------------------------

$standby->stop;
$primary->safe_psql('postgres', "SELECT aidb.stream_drop('one')");
$primary->safe_psql('postgres', 'UPDATE shop.item SET stock = 3');
$standby->start;
same($sum, 'a standby that has lost its place is copied anew');
like(error_of($primary, q(SELECT aidb.stream_read('one', 1, 1, 0, '{}'))), qr/IA003.*cannot go on from there.*copied anew/s,
	'a place that is gone');
like(error_of($primary, q(SELECT aidb.stream_read('none', 1, 1, 0, '{}'))), qr/IA003.*no pin/s, 'a slot that is none');
like(error_of($primary, q(SELECT aidb.stream_read('one', 1, -1, 0, '{}'))), qr/22023.*negative/s, 'a sequence that is none');
like(error_of($primary, q(SELECT aidb.stream_read('', 1, 1, 0, '{}'))), qr/42602/, 'a name that is none');
like(error_of($primary, q(SELECT aidb.stream_read('one', 1, 1, 0, '{}', 3))), qr/22023.*max_bytes is 3/s, 'too small');
like(error_of($primary, 'SELECT aidb.clone_read($$$$, 5000)'), qr/25001.*one snapshot/s, 'a copy needs one snapshot');

# ---- Promotion ----------------------------------------------------------------------------------------------------------

catch_up();
like(error_of($standby, 'SELECT aidb.promote(2)'), qr/IA002.*sealed with this epoch/s, 'no promotion without a seal');
$standby->safe_psql('postgres', 'SELECT aidb.seal(2)');
like(error_of($standby, 'SELECT aidb.seal(1)'), qr/IA002/, 'no seal of a lower epoch');
$primary->safe_psql('postgres', q(INSERT INTO pair VALUES (999, 999)));
$standby->safe_psql('postgres', 'SELECT aidb.promote(2)');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM pair WHERE id = 999'), '0', 'who is sealed follows nobody');
$standby->safe_psql('postgres', 'INSERT INTO pair VALUES (1000, 1); CREATE FOREIGN TABLE later (id int PRIMARY KEY) SERVER aidb; INSERT INTO later VALUES (1)');
is($standby->safe_psql('postgres', 'SELECT role, epoch, writable FROM aidb.node_status()'), 'primary|2|t', 'it is the primary');
like(error_of($primary, q(SELECT aidb.stream_read('one', 2, 1, 0, '{}'))), qr/IA002/, 'the old one hears of it');
like(error_of($primary, 'INSERT INTO pair VALUES (1001, 1)'), qr/IA002.*not the primary of its group any more/s, 'and writes no more');
like(error_of($primary, 'SELECT * FROM pair'), qr/IA002/, 'nor reads');
my $new = 'host=' . $standby->host . ' port=' . $standby->port . ' dbname=postgres';
$primary->safe_psql('postgres', "SELECT aidb.follow('$new', 'two', discard => true)");
ok($primary->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()"), 'it follows the new one');
($primary, $standby) = ($standby, $primary);
$primary->safe_psql('postgres', 'INSERT INTO later VALUES (2)');
same('SELECT count(*), sum(id) FROM later', 'a table of the new primary');
same('SELECT count(*), sum(v), max(id) FROM pair', 'and nothing of what it had alone');
same($sum, 'and all the rest');

done_testing();
