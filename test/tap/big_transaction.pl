# Transactions that write more than the memory they may use for it: what they see, savepoints, cursors, commit,
# rollback, no room for temporary files, a crash in the middle; and that neither memory nor files are left.
#
# AIDB_BIG_ROWS=20000000 runs only the first part, as a long test: so many rows, with 64 MB of memory for them; it
# prints time and memory (give TEST_TIMEOUT to test/run). AIDB_SEED replays the random part.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $long = $ENV{AIDB_BIG_ROWS};
my $rows = $long // 150_000;
$PostgreSQL::Test::Utils::timeout_default = 7200 if $long;
my $limit_mb = $long ? 64 : 1; # maintenance_work_mem
my $node = AidbNode->launch('main', memory => $long ? '256MB' : '32MB',
	conf => "maintenance_work_mem = '${limit_mb}MB'\nlog_statement = none\nmax_wal_size = '4GB'");
my $session = AidbSession->connect($node);
my ($pid) = $session->rows('SELECT pg_backend_pid()');

# ---- Tools ------------------------------------------------------------------------------------------------------

# SQL that must work; its rows, joined.
sub ask {
	my ($sql) = @_;
	return join ',', $session->rows($sql);
}

sub fails {
	my ($sql, $state, $name) = @_;
	is($session->run($sql), $state, $name);
	return;
}

sub temporary_files {
	return ask('SELECT count(*) FROM pg_ls_tmpdir()');
}

# Memory of the backend's modules for writes.
sub write_memory_kb {
	return ask(<<'SQL');
SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts
WHERE name IN ('AiDb writes in memory', 'AiDb spilled writes', 'AiDb writes being spilled')
SQL
}

# Peak of the memory that is the backend's alone.
sub peak_mb {
	my %kb = slurp_file("/proc/$pid/status") =~ /^(VmHWM|RssShmem|RssFile):\s+(\d+) kB/mg;
	return int(($kb{VmHWM} - $kb{RssShmem} - $kb{RssFile}) / 1024);
}

# ---- One big transaction ----------------------------------------------------------------------------------------

# A number without a common factor with the rows takes them in an order that jumps about.
sub insert_rows {
	my ($offset, $count) = @_;
	return "INSERT INTO item SELECT $offset + (i * 7368787) % $count, md5(i::text), 0
		FROM generate_series(0, $count - 1::bigint) i";
}

ask('CREATE FOREIGN TABLE item (k bigint PRIMARY KEY, v text, n int) SERVER aidb');
my $began = time;
ask('BEGIN');
ask(insert_rows(0, $rows));
note sprintf 'INSERT of %d rows: %.1f s, %d kB for writes, peak of the backend %d MB, %d temporary files', $rows,
	time - $began, write_memory_kb(), peak_mb(), temporary_files();
cmp_ok(temporary_files(), '>', 0, 'a big transaction uses temporary files');
cmp_ok(temporary_files(), '<', 40, '... not many of them');
cmp_ok(write_memory_kb(), '<', $limit_mb * 1024 * 1.2, '... and bounded memory');

my $last = $rows - 1;
is(ask('SELECT count(*), min(k), max(k), sum(length(v)) FROM item'), join('|', $rows, 0, $last, $rows * 32),
	'it sees all its rows');
is(ask("SELECT count(*) FROM generate_series(-1000, 1000) i WHERE EXISTS (SELECT FROM item WHERE k = i)"), 1001,
	'... also one by one, and no others');
is(ask('SELECT string_agg(k::text, $$ $$) FROM (SELECT k FROM item WHERE k < 5000 ORDER BY k DESC LIMIT 3) t'),
	'4999 4998 4997', '... and backwards');
fails('SAVEPOINT a; INSERT INTO item VALUES (77)', '23505', 'a spilled row is a duplicate key');
ask('ROLLBACK TO a');

my $sum = 'SELECT count(*), sum(n) FROM item';
ask('UPDATE item SET n = n + 1 WHERE k % 10 = 3');
ask('DELETE FROM item WHERE k % 10 = 4');
ask("INSERT INTO item SELECT k, 'again', 100 FROM generate_series(4, $last, 20) k");
my $tenth = $rows / 10;
my $expected = sprintf '%d|%d', $rows - $tenth / 2, $tenth + 100 * $tenth / 2;
is(ask($sum), $expected, 'spilled rows are updated, deleted and inserted again');

ask('SAVEPOINT b');
ask('UPDATE item SET n = n + 1 WHERE k % 10 IN (3, 4, 5)');
ask('SAVEPOINT c');
ask('DELETE FROM item WHERE k % 10 = 3');
ask('ROLLBACK TO c');
is(ask($sum), sprintf('%d|%d', $rows - $tenth / 2, $tenth + 100 * $tenth / 2 + $tenth * 5 / 2),
	'a savepoint takes spilled writes back');
ask('ROLLBACK TO b');
is(ask($sum), $expected, '... and the one around it too');
cmp_ok(write_memory_kb(), '<', $limit_mb * 1024 * 1.2, 'memory is still bounded');

my $commit_began = time;
ask('COMMIT');
note sprintf 'COMMIT: %.1f s, whole transaction %.1f s, peak of the backend %d MB', time - $commit_began, time - $began,
	peak_mb();
is(temporary_files(), 0, 'no temporary file is left after the commit');
is(ask($sum), $expected, 'everything is committed');
SKIP: {
	skip 'a sanitizer keeps freed memory', 1 if $node->is_sanitized;
	cmp_ok(peak_mb(), '<', $limit_mb * 2 + 40, 'the backend stayed small');
}

ask('BEGIN');
ask('UPDATE item SET n = -1');
cmp_ok(temporary_files(), '>', 0, 'a big UPDATE uses temporary files');
ask('ROLLBACK');
is(temporary_files(), 0, 'no temporary file is left after a rollback');
is(ask($sum), $expected, 'nothing of it is left either');

if ($long) {
	$node->stop;
	done_testing();
	exit;
}

# ---- Cursors ----------------------------------------------------------------------------------------------------

ask('CREATE FOREIGN TABLE walk (k bigint PRIMARY KEY, v text) SERVER aidb');
for my $order ('', 'DESC') {
	ask('BEGIN');
	ask("INSERT INTO walk SELECT i * 2, repeat('x', 100) FROM generate_series(1, 10000) i");
	ask("DECLARE c CURSOR FOR SELECT k FROM walk ORDER BY k $order");
	my @keys = $session->rows('FETCH 5000 FROM c');
	ask("INSERT INTO walk SELECT i * 2 + 1, repeat('y', 100) FROM generate_series(1, 10000) i");
	push @keys, $session->rows('FETCH 1000 FROM c');
	ask('SAVEPOINT a');
	ask('DELETE FROM walk');
	push @keys, $session->rows('FETCH 1000 FROM c');
	ask('ROLLBACK TO a');
	push @keys, $session->rows('FETCH ALL FROM c');
	my @all = map { $_ * 2 } 1 .. 10000;
	@all = reverse @all if $order;
	is("@keys", "@all", "a cursor $order shows what was there, whatever is spilled and rolled back under it");
	is(ask('SELECT count(*) FROM walk'), 20000, '... and the others see the rest');
	ask('ROLLBACK');
}

# ---- Prepared ---------------------------------------------------------------------------------------------------

for my $end ('COMMIT', 'ROLLBACK') {
	ask('BEGIN');
	ask("INSERT INTO walk SELECT i, repeat('x', 100) FROM generate_series(1, 10000) i");
	cmp_ok(temporary_files(), '>', 0, "a transaction to be prepared, then $end: it spills");
	ask("PREPARE TRANSACTION 'big'");
	is(temporary_files(), 0, '... has no files when it is prepared');
	ask("$end PREPARED 'big'");
	is(ask('SELECT count(*) FROM walk'), $end eq 'COMMIT' ? 10000 : 0, '... and ends as a whole');
	ask('DELETE FROM walk');
}

# ---- Savepoints -------------------------------------------------------------------------------------------------

# Rows in the order of their keys, which one file takes.
sub append {
	my ($first, $last) = @_;
	ask("INSERT INTO walk SELECT k, repeat('x', 100) FROM generate_series($first, $last) k");
	return;
}

ask('BEGIN');
append(1, 10000);
ask('SAVEPOINT a');
append(10001, 20000);
ask('ROLLBACK TO a');
append(20001, 30000);
ask('SAVEPOINT b');
append(30001, 40000);
ask('RELEASE b');
is(ask('SELECT count(*), sum(k) FROM walk'), join('|', 30000, (1 + 40000) * 20000 - (10001 + 20000) * 5000),
	'rows that are spilled in the order of their keys, with a gap that was rolled back');
is(ask('SELECT count(*) FROM generate_series(1, 40000, 100) i WHERE EXISTS (SELECT FROM walk WHERE k = i)'), 300,
	'... also one by one');
ask('ROLLBACK TO a');
is(ask('SELECT count(*) FROM walk'), 10000, '... and cut back to where it began');
ask('ROLLBACK');

my $versions = <<'SQL';
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		UPDATE walk SET v = i || repeat('v', 300);
	END LOOP;
END $$
SQL
my $latest = 'SELECT DISTINCT (SELECT left(v, 2) FROM walk WHERE k = i) FROM generate_series(1, 3000) i';
ask('BEGIN');
append(1, 3000);
ask($versions);
is(ask($latest), 20, 'of many spilled versions the latest counts');
ask('SAVEPOINT a');
ask($versions =~ s/i \|\|/i + 50 ||/r);
is(ask($latest), 70, '... again');
is(ask('SELECT DISTINCT left(v, 2) FROM walk'), 70, '... in a scan too');
ask('ROLLBACK TO a');
is(ask($latest), 20, '... and after a rollback the latest before it');
ask('COMMIT');
is(ask('SELECT DISTINCT left(v, 2) FROM walk'), 20, '... which is committed');
ask('DELETE FROM walk');

ask(<<'SQL');
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 3000 LOOP
		BEGIN
			INSERT INTO walk VALUES (i, repeat('z', 300)), (10000 + i, repeat('z', 300));
			IF i % 3 = 0 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$
SQL
is(ask('SELECT count(*), count(*) FILTER (WHERE k % 3 = 0) FROM walk WHERE k < 10000'), '2000|0',
	'thousands of subtransactions, some of them rolled back');
cmp_ok(temporary_files(), '>', 0, '... spilled too');
ask('COMMIT');
is(ask('SELECT count(*) FROM walk'), 4000, '... and committed');
ask('DELETE FROM walk');

# ---- A random transaction, on a heap table and an AiDb table alike ----------------------------------------------

my $seed = $ENV{AIDB_SEED} // int rand 2**31;
note "AIDB_SEED=$seed";
srand $seed;
my ($universe, $step) = (4000, 0);

sub both {
	my ($sql) = @_;
	ask($sql =~ s/\bT\b/$_/gr) for qw(heap_pair pair);
	return;
}

# What is asked of both tables.
my @questions = (
	'SELECT count(*), md5(string_agg(k || v, $$,$$ ORDER BY k)) FROM T',
	'SELECT md5(string_agg(k || v, $$,$$)) FROM (SELECT * FROM T ORDER BY k DESC) t',
	'SELECT md5(string_agg(i || (SELECT v FROM T WHERE k = i), $$,$$ ORDER BY i)) FROM generate_series(1, 4000, 7) i',
	'SELECT md5(string_agg(k || v, $$,$$)) FROM (SELECT * FROM T WHERE k BETWEEN 1000 AND 1200 ORDER BY k DESC) t');

sub difference {
	for my $question (@questions) {
		my @answers = map { ask($question =~ s/\bT\b/$_/gr) } qw(heap_pair pair);
		return $question if $answers[0] ne $answers[1];
	}
	return;
}

sub condition {
	my ($from, $modulus) = (int rand $universe, 2 + int rand 5);
	return sprintf 'k BETWEEN %d AND %d AND k %% %d = %d', $from, $from + rand $universe, $modulus, rand $modulus;
}

my @savepoints; # each with the cursors that are open in it
my @changes = (
	sub {
		both(sprintf 'INSERT INTO T SELECT k, repeat(md5((k + %d)::text), 8) FROM generate_series(1, %d) new(k)
			WHERE %s AND NOT EXISTS (SELECT FROM T old WHERE old.k = new.k)', $step, $universe, condition());
	},
	sub { both(sprintf 'UPDATE T SET v = repeat(md5((k + %d)::text), 8) WHERE %s', $step, condition()) },
	sub { both(sprintf 'UPDATE T SET k = k + %d WHERE %s', $universe * ($step + 1), condition()) },
	sub { both('DELETE FROM T WHERE ' . condition()) },
	sub {
		ask("SAVEPOINT s$step");
		push @savepoints, { name => "s$step", cursors => [] };
	},
	sub {
		my $name = "c$step";
		my $order = rand() < 0.5 ? 'DESC' : '';
		ask("DECLARE ${name}_$_ CURSOR FOR SELECT * FROM $_ ORDER BY k $order") for qw(heap_pair pair);
		push @{$savepoints[-1]{cursors}}, $name;
	},
	sub {
		return if @savepoints == 1;
		my $to = 1 + int rand @savepoints - 1;
		ask("ROLLBACK TO $savepoints[$to]{name}");
		$#savepoints = $to;
		$savepoints[$to]{cursors} = [];
	},
	sub {
		return if @savepoints == 1;
		my $last = pop @savepoints;
		ask("RELEASE $last->{name}");
		push @{$savepoints[-1]{cursors}}, @{$last->{cursors}};
	});

# Cursors whose next rows are not the same.
sub different_cursors {
	my $count = 1 + int rand 500;
	return grep {
		my $name = $_;
		my ($heap, $aidb) = map { ask("FETCH $count FROM ${name}_$_") } qw(heap_pair pair);
		$heap ne $aidb;
	} map { @{$_->{cursors}} } @savepoints;
}

sub random_transaction {
	ask('BEGIN');
	@savepoints = ({ name => undef, cursors => [] });
	for (1 .. 25) {
		$step++;
		$changes[rand @changes]->();
		my ($cursor) = different_cursors();
		return "cursor $cursor after step $step" if $cursor;
		my $question = difference();
		return "$question after step $step" if $question;
	}
	ask(rand() < 0.7 ? 'COMMIT' : 'ROLLBACK');
	return difference();
}

ask('CREATE TABLE heap_pair (k bigint PRIMARY KEY, v text);
	CREATE FOREIGN TABLE pair (k bigint PRIMARY KEY, v text) SERVER aidb');
my $wrong;
for (1 .. $ENV{AIDB_RANDOM_TRANSACTIONS} // 6) {
	$wrong = random_transaction() and last;
}
is($wrong, undef, "random transactions see and leave the same as on a heap table (AIDB_SEED=$seed)");
is(temporary_files(), 0, '... without temporary files afterwards');

# ---- Errors -----------------------------------------------------------------------------------------------------

my $more = 30_000;
ask("SET temp_file_limit = '2MB'");
ask('BEGIN');
ask("INSERT INTO walk SELECT k, 'kept' FROM generate_series(1, 10) k");
ask('SAVEPOINT a');
fails(insert_rows($rows * 10, $more), '53400', 'temp_file_limit is kept');
ask('ROLLBACK TO a');
cmp_ok(temporary_files(), '<', 2, 'the savepoint removes the files that only its writes were in');
fails(insert_rows($rows * 10, $more), '53400', '... again');
ask('ROLLBACK TO a');
ask("INSERT INTO walk SELECT k, 'kept too' FROM generate_series(11, 20) k");
ask('COMMIT');
is(ask('SELECT count(*) FROM walk'), 20, '... and the rest of the transaction commits');
ask('RESET temp_file_limit');
is(temporary_files(), 0, 'no file is left');
unlike(slurp_file($node->logfile), qr/WARNING|PANIC/, '... that the end of a transaction had to remove');

my $other = AidbSession->connect($node);
ask('BEGIN');
ask('SAVEPOINT a');
my $canceller = fork // die "fork: $!";
if ($canceller == 0) {
	my $own = AidbSession->connect($node);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	1 until ($own->rows('SELECT count(*) FROM pg_ls_tmpdir()'))[0] > 3 || time > $deadline;
	$own->rows("SELECT pg_cancel_backend($pid)");
	$own->close;
	POSIX::_exit(0);
}
fails(insert_rows($rows * 10, 3_000_000), '57014', 'a statement that spills can be cancelled');
waitpid $canceller, 0;
ask('ROLLBACK TO a');
is(ask("SELECT count(*) FROM item WHERE k >= $rows * 10"), 0, '... and leaves nothing');
ask('COMMIT');
is(temporary_files(), 0, '... no file either');

# ---- A crash ----------------------------------------------------------------------------------------------------

ask('BEGIN');
ask(insert_rows($rows * 10, $more));
ask('UPDATE item SET n = n - 1 WHERE k % 10 = 3');
cmp_ok($other->rows('SELECT count(*) FROM pg_ls_tmpdir()'), '>', 0, 'before a crash there are temporary files');
$node->crash;
$node->start;
$session = AidbSession->connect($node);
is(temporary_files(), 0, '... after it there are none');
is(ask($sum), $expected, '... and nothing of the transaction');
$node->stop;
done_testing();
