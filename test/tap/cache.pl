# A caching read node: answers by key from the rows that it remembers, asks its primary for others and for ranges, forgets what the
# stream says has changed, never goes back in time, and comes back from a restart with what it knew.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $primary = AidbNode->launch('primary', fsync => 'on');
my $cache = AidbNode->launch('cache', conf => 'aidb.row_cache = 8MB');
my $conninfo = 'host=' . $primary->host . ' port=' . $primary->port . ' dbname=postgres user=reader';

sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

sub at_primary { return $primary->safe_psql('postgres', $_[0]) }
sub at_cache { return $cache->safe_psql('postgres', $_[0]) }

# Reads at the cache what was committed before.
sub current {
	my ($sql) = @_;
	my $token = at_primary('SELECT aidb.token()');
	return at_cache("SET aidb.read_token = '$token'; $sql");
}

sub number { return at_cache("SELECT value FROM aidb.stats() WHERE name = 'row_cache_$_[0]'") }

sub wait_streaming {
	return if $cache->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()");
	die 'the cache does not follow: ' . at_cache('SELECT * FROM aidb.node_status()');
}

at_primary(<<'SQL');
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA aidb TO reader;
GRANT EXECUTE ON FUNCTION aidb.stream_open, aidb.stream_read, aidb.clone_read, aidb.rows_get, aidb.rows_scan TO reader;
CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text, n int DEFAULT 0) SERVER aidb;
INSERT INTO item SELECT i, 'value ' || i FROM generate_series(1, 20000) i;
CREATE FOREIGN TABLE large (id int PRIMARY KEY, v text) SERVER aidb;
INSERT INTO large SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i; -- more than one part of a copy
SELECT aidb.put('space', 'k', 'v');
SELECT aidb.become_primary();
SQL
at_cache("SELECT aidb.follow('$conninfo', 'cache1', 'cache')");
wait_streaming();

# ---- Reads --------------------------------------------------------------------------------------------------------

is(current('SELECT v FROM item WHERE id = 7'), 'value 7', 'a row');
is(number('misses') . '|' . number('hits'), '1|0', 'is asked for');
is(current('SELECT v FROM item WHERE id = 7'), 'value 7', 'and remembered');
is(number('misses') . '|' . number('hits'), '1|1', 'for the next time');
is(current('SELECT count(*) FROM item WHERE id = 99999'), '0', 'no row') for 1 .. 2;
is(number('hits'), '2', 'is remembered, too');
is(current('SELECT count(*), sum(id) FROM item'), '20000|200010000', 'a scan');
is(current('SELECT id FROM item WHERE id BETWEEN 10 AND 12 ORDER BY id DESC'), "12\n11\n10", 'a range, backwards');
is(current('SELECT v FROM item WHERE id IN (3, 7, 99999)'), "value 3\nvalue 7", 'several');
my $many = 'id = ANY (ARRAY(SELECT 4 * i FROM generate_series(-1000, 6000) i))'; # more than are asked for at a time
is(current("SELECT count(*), sum(id), min(v) FROM item WHERE $many"), '5000|50010000|value 100', 'many');
my $hits = number('hits');
is(current("SELECT count(*), sum(id), min(v) FROM item WHERE $many"), '5000|50010000|value 100', 'many once more');
is(number('hits') - $hits, '7001', 'are remembered');
is(current("SELECT id FROM item WHERE $many ORDER BY id DESC LIMIT 2"), "20000\n19996", 'many, backwards');
is(current('SELECT a.id, count(b.id) FROM item a LEFT JOIN item b ON b.id = ANY (ARRAY[a.id, a.id + 1, -1]) WHERE a.id IN (19999, 20000) GROUP BY 1 ORDER BY 1'),
	"19999|2\n20000|1", 'in a join');
is(current('SELECT count(*), sum(length(v)) FROM large'), '30000|3000000', 'a scan of many chunks');
is(current('SELECT id FROM large ORDER BY id DESC LIMIT 2'), "30000\n29999", 'the end of it');
is(current("SELECT convert_from(aidb.get('space', 'k'), 'UTF8')"), 'v', 'a key space');
is(current('SELECT count(*) FROM item a JOIN item b ON a.id = b.id WHERE a.id < 20'), '19', 'a join');
like(error_of($cache, 'INSERT INTO item VALUES (0)'), qr/25006.*on a cache.*Connect to the primary at/s, 'no writes');
is(at_cache("SELECT role, state FROM aidb.node_status()"), 'cache|streaming', 'its state');

# ---- Changes ------------------------------------------------------------------------------------------------------

at_primary("UPDATE item SET v = 'new' WHERE id = 7; INSERT INTO item VALUES (99999, 'come'); DELETE FROM item WHERE id = 3");
is(current('SELECT v FROM item WHERE id = 7'), 'new', 'a changed row');
is(current('SELECT v FROM item WHERE id = 99999'), 'come', 'a new one');
is(current('SELECT count(*) FROM item WHERE id = 3'), '0', 'one that is gone');
cmp_ok(number('invalidations'), '>=', 3, 'were forgotten');
at_primary("BEGIN; CREATE TEMP TABLE t (); UPDATE item SET v = 'mixed' WHERE id = 7; COMMIT");
is(current('SELECT v FROM item WHERE id = 7'), 'mixed', 'of a transaction over heap tables, too');
at_primary("BEGIN; CREATE TEMP TABLE t (); UPDATE item SET v = 'never' WHERE id = 7; ROLLBACK");
is(current('SELECT v FROM item WHERE id = 7'), 'mixed', 'nothing of one that was undone');
at_primary("ALTER TABLE item ADD COLUMN w int DEFAULT 5");
is(current('SELECT v, w FROM item WHERE id = 7'), 'mixed|5', 'a column');
at_primary('CREATE FOREIGN TABLE late (id int PRIMARY KEY) SERVER aidb; INSERT INTO late VALUES (1)');
is(current('SELECT id FROM late WHERE id = 1'), '1', 'a table that was made later');
at_primary('TRUNCATE late');
is(current('SELECT count(*) FROM late WHERE id = 1'), '0', 'and emptied');
at_primary('DROP FOREIGN TABLE late');
$cache->poll_query_until('postgres', "SELECT to_regclass('late') IS NULL") or die 'late stays';
pass('and dropped');

# ---- Under load ------------------------------------------------------------------------------------------------------

# A writer counts one row up after the other; every reader sees each row's count only grow, and never less than what was
# acknowledged before he asked with a token.
my $count = 0;
sub load {
	my ($seconds) = @_;
	my $writer = AidbSession->connect($primary) or die;
	my @readers = map { AidbSession->connect($cache) or die } 1 .. 2;
	my @seen = ({}, {});
	my ($reads, $back, $stale) = (0, 0, 0);
	my $end = time + $seconds;
	while (time < $end) {
		$count++;
		my $id = 10 + $count % 10;
		$writer->run("UPDATE item SET n = $count WHERE id = $id") eq '00000' or die;
		for my $reader (0, 1) {
			for my $key ($id, 10 + ($count + 3) % 10) {
				my ($n) = $readers[$reader]->rows("SELECT n FROM item WHERE id = $key");
				$back++ if $n < ($seen[$reader]{$key} // 0);
				$seen[$reader]{$key} = $n;
				$reads++;
			}
		}
		if ($count % 20 == 0) {
			my ($token) = $writer->rows('SELECT aidb.token()');
			$readers[0]->run("SET aidb.read_token = '$token'");
			my ($n) = $readers[0]->rows("SELECT n FROM item WHERE id = $id");
			$stale++ if $n < $count;
			$readers[0]->run("RESET aidb.read_token");
		}
	}
	return ($reads, $back, $stale);
}

my ($reads, $back, $stale) = load(3);
cmp_ok($reads, '>', 500, "$reads reads under load");
is($back, 0, 'none goes back');
is($stale, 0, 'and a token is kept');
is(current('SELECT string_agg(n::text, \',\' ORDER BY id) FROM item WHERE id BETWEEN 10 AND 19'), at_primary('SELECT string_agg(n::text, \',\' ORDER BY id) FROM item WHERE id BETWEEN 10 AND 19'), 'in the end it is as at the primary');
is(join(',', map { current("SELECT n FROM item WHERE id = $_") } 10 .. 19), at_primary('SELECT string_agg(n::text, \',\' ORDER BY id) FROM item WHERE id BETWEEN 10 AND 19'), 'also by key');

# A row that is on its way while it is changed is not remembered as it was.
my $slow = AidbSession->connect($cache);
$slow->run("SET aidb.fault_point = 'cached_row_read=pause'");
for my $id (map { 4 * $_ + 1 } 50 .. 54) { # that nobody has asked for
	my $asked = number('misses');
	$slow->start("SELECT v FROM item WHERE id = $id");
	my $until = time + 60;
	while (number('misses') == $asked) {
		die 'the row is not asked for' if time > $until;
		sleep 0.005;
	}
	sleep 0.02; # the answer comes, and is held up for another 80 ms
	at_primary("UPDATE item SET v = 'overtaken' WHERE id = $id");
	$slow->read_end;
	is(current("SELECT v FROM item WHERE id = $id"), 'overtaken', "row $id, changed on its way");
}

# An answer of the primary that is ahead of the stream waits for it: what is remembered would be behind it.
$cache->append_conf('postgresql.conf', "aidb.fault_point = 'apply_begin=pause'");
$cache->restart;
wait_streaming();
for my $round (1 .. 3) {
	my ($known, $unknown) = (300 + $round, 400 + $round);
	current("SELECT v FROM item WHERE id = $known");
	at_primary("UPDATE item SET v = 'round $round' WHERE id IN ($known, $unknown)");
	is(at_cache("SELECT v FROM item WHERE id = $unknown; SELECT v FROM item WHERE id = $known"), "round $round\nround $round", 'no row is behind another');
}
$cache->append_conf('postgresql.conf', "aidb.fault_point = ''");
$cache->restart;
wait_streaming();

# ---- Tokens and staleness ------------------------------------------------------------------------------------------------

like(error_of($cache, "SET aidb.read_token = 'x'"), qr/22023.*A token is an epoch and a sequence/s, 'what is no token');
like(error_of($cache, "SET aidb.read_token = '1:999999999'; SET aidb.read_token_timeout = 100; SELECT v FROM item WHERE id = 7"), qr/55000.*has not come to commit 999999999/s, 'one that does not come');

# ---- A restart ------------------------------------------------------------------------------------------------------

at_cache("SELECT count(v) FROM item WHERE id = $_") for 100 .. 140;
my $before_restart = -s $cache->logfile;
$cache->restart;
wait_streaming();
$cache->wait_for_log(qr/row cache holds again what it held/, $before_restart);
my $misses = number('misses');
is(at_cache('SELECT v FROM item WHERE id = 120'), 'value 120', 'after a restart');
is(number('misses'), $misses, 'it still knows what it knew');
at_primary("UPDATE item SET v = 'after restart' WHERE id = 121");
is(current('SELECT v FROM item WHERE id = 121'), 'after restart', 'and hears of changes');
$cache->crash;
$cache->start;
wait_streaming();
is(current('SELECT v FROM item WHERE id = 121'), 'after restart', 'after a crash');

# ---- A primary that is away -----------------------------------------------------------------------------------------------

my $session = AidbSession->connect($cache);
$session->rows('SELECT v FROM item WHERE id = 7');
$primary->restart;
wait_streaming();
is(join('', $session->rows('SELECT v FROM item WHERE id = 7')), 'mixed', 'a session goes on when the primary was restarted');
$primary->crash;
$cache->poll_query_until('postgres', "SELECT state <> 'streaming' FROM aidb.node_status()") or die;
is(number('bytes'), '0', 'without the stream nothing is remembered');
like(error_of($cache, 'SELECT v FROM item WHERE id = 7'), qr/08006.*could not connect to the primary/s, 'and reads fail');
$primary->start;
wait_streaming();
is(current('SELECT v FROM item WHERE id = 7'), 'mixed', 'until it is back');

my @hung = $primary->processes;
$session->rows('SELECT v FROM item WHERE id = 7');
kill 'STOP', @hung;
is(at_cache('SELECT v FROM item WHERE id = 7'), 'mixed', 'what it knows it says while the primary hangs');
my $begin = time;
like(error_of($cache, 'SET aidb.max_staleness = 300; SELECT pg_sleep(0.6); SET statement_timeout = 1000; SELECT v FROM item WHERE id = 7'), qr/57014/, 'unless that is too old');
cmp_ok(time - $begin, '<', 8, 'which can be cancelled');
kill 'CONT', @hung;
wait_streaming();
is(current('SELECT v FROM item WHERE id = 7'), 'mixed', 'and it goes on');

# ---- Commits that wait for a standby -----------------------------------------------------------------------------------------

# The cache must not be told of a commit before it is visible: it would ask for the row, get the old one, and keep it.
my $standby = AidbNode->launch('standby', fsync => 'on');
$standby->safe_psql('postgres', "SELECT aidb.follow('" . $conninfo . "', 'standby1')");
$primary->poll_query_until('postgres', "SELECT count(*) = 2 FROM aidb.stream_slots()") or die;
$standby->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()") or die;
at_primary("SELECT aidb.set_in_sync(1, '{standby1}')");
($reads, $back, $stale) = load(3);
cmp_ok($reads, '>', 100, "$reads reads with a standby in sync");
is($back, 0, 'none goes back');
is($stale, 0, 'and a token is kept');
my @stopped = $standby->processes;
kill 'STOP', @stopped;
my $writer = IPC::Run::start([ $primary->installed_command('psql'), '-XAtqc', "UPDATE item SET v = 'unseen' WHERE id = 7", '-d', $primary->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');
$primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE item%' AND state = 'active' AND wait_event IS NOT NULL") or die;
is(at_cache('SELECT v FROM item WHERE id = 7'), 'mixed', 'a commit that waits is not seen');
kill 'CONT', @stopped;
$writer->finish;
is(current('SELECT v FROM item WHERE id = 7'), 'unseen', 'and afterwards it is');

done_testing();
