# A server that is run and ended in odd ways: by hand without a postmaster, shut down while eight sessions write, left by
# its postmaster, left by AiDb's workers, started with other settings after a crash. Every acknowledged commit must be
# there each time, and nothing that was not asked for.
use strict;
use warnings;
use AidbJournal;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $writers = 8;
my $work = 30; # acknowledged transactions of each writer before something happens

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $limit_s = $PostgreSQL::Test::Utils::timeout_default;

my $node = AidbNode->launch('main', memory => '16MB', fsync => 'on', conf => <<'CONF');
shared_buffers = 4MB
max_connections = 30
log_statement = none
log_min_error_statement = panic
CONF

$node->safe_psql('postgres', <<'SQL');
CREATE FOREIGN TABLE item (k int PRIMARY KEY, v text) SERVER aidb;
CREATE TABLE heap (k int PRIMARY KEY, v text);
CREATE FOREIGN TABLE entry (writer int, number int, filler text, PRIMARY KEY (writer, number)) SERVER aidb;
CREATE TABLE heap_entry (writer int, number int, PRIMARY KEY (writer, number));
SQL

sub wait_until {
	my ($condition) = @_;
	my $deadline = time + $limit_s;
	sleep 0.02 until $condition->() || time > $deadline;
	return $condition->();
}

# ---- Without a postmaster ----------------------------------------------------------------------------------------

# Runs statements, a line each, in single-user mode; what it printed, with its messages.
sub single {
	my (@statements) = @_;
	my $input = join '', map { "$_\n" } @statements;
	my $output = '';
	my @command = ('postgres', '--single', '-D', $node->data_dir, 'postgres');
	IPC::Run::run \@command, '<', \$input, '>', \$output, '2>&1', IPC::Run::timeout($limit_s);
	return $output;
}

# How many rows both tables have, and what sums they have.
my $contents = "SELECT concat_ws(' ', (SELECT count(*) FROM item), (SELECT coalesce(sum(k), 0) FROM item),"
	. ' (SELECT count(*) FROM heap), (SELECT coalesce(sum(k), 0) FROM heap)) AS contents';

sub contents_in { my ($output) = @_; return join ', ', $output =~ /contents = "(.*?)"/g }

$node->stop;
{
	my $output = single(
		"INSERT INTO item VALUES (1, 'plain');",
		'BEGIN;', "INSERT INTO item VALUES (2, 'mixed');", "INSERT INTO heap VALUES (2, 'mixed');", 'COMMIT;',
		'BEGIN;', "UPDATE item SET v = 'undone';", "INSERT INTO heap VALUES (3, 'undone');", 'ROLLBACK;',
		'BEGIN;', 'SAVEPOINT s;', 'INSERT INTO item VALUES (4);', 'ROLLBACK TO s;', 'INSERT INTO item VALUES (5);', 'COMMIT;',
		'INSERT INTO item VALUES (5);',
		"$contents;", 'CHECKPOINT;');
	is(contents_in($output), '3 8 1 2', 'single-user mode: statements and transactions do as anywhere');
	like($output, qr/ERROR:  duplicate key/, 'and errors are but errors');
	unlike($output, qr/FATAL|PANIC/, 'and nothing worse');
}
{
	# several memtables full, which nobody flushes but this process
	my $output = single(
		map({ "INSERT INTO item SELECT i, repeat('x', 500) FROM generate_series($_ * 1000 + 1, $_ * 1000 + 1000) i;" } 1 .. 20),
		'DELETE FROM item WHERE k > 1000;', 'SELECT aidb.flush();', "$contents;",
		"SELECT sum(value) AS files FROM aidb.stats() WHERE name IN ('flushes', 'compactions', 'moves');");
	is(contents_in($output), '3 8 1 2', 'it flushes and compacts by itself');
	my ($files) = $output =~ /files = "(\d+)"/;
	cmp_ok($files // 0, '>', 3, 'several times');
}
like(single('SET aidb.fault_point = \'log_copied=pause\';', 'SELECT count(*) FROM item;', "$contents;"), qr/3 8 1 2/,
	'a second time it finds all of that');
single("SET aidb.fault_point = 'published=kill';", "INSERT INTO item VALUES (6, 'killed');");
is(contents_in(single("$contents;")), '4 14 1 2', 'killed after a commit, it finds the commit');
single("SET aidb.fault_point = 'precommit_prepared=kill';",
	"WITH h AS (INSERT INTO heap VALUES (7, 'killed')) INSERT INTO item VALUES (7, 'killed');");
is(contents_in(single("$contents;")), '4 14 1 2', 'killed between prepared and committed, it finds nothing of that');
$node->start;
is($node->safe_psql('postgres', $contents), '4 14 1 2', 'and so does the server');
$node->crash;
is(contents_in(single('INSERT INTO item VALUES (8);', "$contents;")), '5 22 1 2', 'single-user mode recovers after a crash');
$node->start;
is($node->safe_psql('postgres', $contents), '5 22 1 2', 'and the server goes on from there');

# ---- Eight writers -----------------------------------------------------------------------------------------------

my @background;
my $main_pid = $$;

END {
	kill 'KILL', @background if $$ == $main_pid;
}

sub journal { return "$folder/journal$_[0]" }

# Commits until the connection is lost or the file "stop" is there; notes what is tried and what is acknowledged. Every
# other transaction is mixed.
sub write_on {
	my ($writer, $first) = @_;
	my $session = AidbSession->connect_until($node);
	for (my $number = $first; !-e "$folder/stop"; $number++) {
		my @statements = "INSERT INTO entry VALUES ($writer, $number, repeat('f', 500))";
		push @statements, "INSERT INTO heap_entry VALUES ($writer, $number)" if $number % 2;
		append(journal($writer), "try $number");
		my $state = $session->transaction(@statements) // return;
		append(journal($writer), $state eq '00000' ? "done $number" : "failed $number $state");
	}
	return;
}

sub start_writers {
	unlink "$folder/stop";
	my %before = map { $_ => scalar(grep { /^done/ } lines_of(journal($_))) } 1 .. $writers;
	for my $writer (1 .. $writers) {
		my $first = 1 + grep { /^try/ } lines_of(journal($writer));
		my $pid = fork // die "fork: $!";
		if ($pid == 0) {
			eval { write_on($writer, $first); 1 } or append(journal($writer), "failed: $@");
			POSIX::_exit(0);
		}
		push @background, $pid;
	}
	ok(wait_until(sub {
		!grep { $before{$_} + $work > grep { /^done/ } lines_of(journal($_)) } 1 .. $writers;
	}), "$writers writers at work");
	return;
}

sub end_writers {
	waitpid $_, 0 for @background;
	@background = ();
	return;
}

# What is wrong with the rows of a writer.
sub faults_of {
	my ($session, $writer) = @_;
	my @lines = lines_of(journal($writer));
	my %tried = map { /^try (\d+)/ ? ($1 => 1) : () } @lines;
	my %done = map { /^done (\d+)/ ? ($1 => 1) : () } @lines;
	my %found = map { $_ => 1 } $session->rows("SELECT number FROM entry WHERE writer = $writer");
	my %on_heap = map { $_ => 1 } $session->rows("SELECT number FROM heap_entry WHERE writer = $writer");
	my @wrong = grep { /^failed/ } @lines;
	push @wrong, map { "$_ is acknowledged and missing" } grep { !$found{$_} } keys %done;
	push @wrong, map { "$_ was never written" } grep { !$tried{$_} } keys %found;
	push @wrong, map { "$_ is there in half" } grep { $_ % 2 && !$found{$_} != !$on_heap{$_} } keys %tried;
	return map { "writer $writer: $_" } @wrong;
}

sub all_is_there {
	my ($name) = @_;
	my $session = AidbSession->connect_until($node);
	is(join("\n", map { faults_of($session, $_) } 1 .. $writers), '', "$name: what was acknowledged is there, and no more");
	is(join(',', $session->rows('SELECT status FROM aidb.health()')), 'ok', "$name: the store is well");
	return;
}

for my $mode (qw(fast immediate)) {
	start_writers();
	$node->stop($mode);
	end_writers();
	$node->start;
	all_is_there("$mode shutdown");
}
{
	start_writers();
	system_or_bail('pg_ctl', '-D', $node->data_dir, '-m', 'smart', '--no-wait', 'stop');
	ok(wait_until(sub { !AidbSession->connect($node) }), 'in smart shutdown nobody else is let in');
	my $before = () = lines_of(journal(1));
	ok(wait_until(sub { $before + 10 < lines_of(journal(1)) }), 'and those who are in go on');
	append("$folder/stop", '');
	end_writers();
	AidbNode::wait_gone($_) for $node->processes;
	$node->_update_pid(0);
	$node->start;
	all_is_there('smart shutdown');
}

# ---- The postmaster is gone --------------------------------------------------------------------------------------

# A postmaster whose parent has not asked for it yet still has a number, for which a new one would not even look at the
# shared memory.
sub forget_zombie {
	my ($pid) = @_;
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock' if -d "/proc/$pid";
	return;
}

{
	start_writers();
	my $old = AidbSession->connect($node);
	my ($backend) = $old->rows('SELECT pg_backend_pid() FROM item LIMIT 1');
	# stopped in the middle of a commit, for which all others wait
	$old->rows("SET aidb.fault_point = 'log_copied=pause'");
	my $look = AidbSession->connect($node);
	my $sender = fork // die "fork: $!";
	if ($sender == 0) {
		$old->run('INSERT INTO item VALUES (1000)');
		POSIX::_exit(0);
	}
	push @background, $sender;
	wait_until(sub { join('', $look->rows("SELECT state FROM pg_stat_activity WHERE pid = $backend")) eq 'active' });
	kill 'STOP', $backend;
	$look->close;
	my $postmaster = $node->{_pid};
	kill 'KILL', $postmaster;
	AidbNode::wait_gone($postmaster);
	ok(wait_until(sub { join(',', $node->processes) eq $backend }), 'without a postmaster all leave, but one that cannot');
	forget_zombie($postmaster);
	$node->{_pid} = undef;
	my $offset = -s $node->logfile;
	ok(!$node->start(fail_ok => 1), 'a new one does not start while that one is there');
	like(slurp_file($node->logfile, $offset), qr/FATAL:  pre-existing shared memory block .* is still in use/, 'and says why');
	kill 'CONT', $backend;
	AidbNode::wait_gone($backend);
	end_writers();
	$old->close;
	unlink $node->data_dir . '/postmaster.pid' if !$node->processes;
	$node->start;
	all_is_there('without a postmaster');
}

# ---- The workers are gone ----------------------------------------------------------------------------------------

{
	my $session = AidbSession->connect($node);
	my $ask = "SELECT string_agg(backend_type || ' ' || pid, ',' ORDER BY backend_type) FROM pg_stat_activity"
		. " WHERE backend_type LIKE 'aidb %'";
	my $names = sub { my ($workers) = $session->rows($ask); ($workers // '') =~ s/ \d+//gr };
	my ($before) = $session->rows($ask);
	$session->rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'aidb %'");
	my $rows = 0;
	for my $i (1 .. 10) { # more than three memtables full
		my $state = $session->run(<<"SQL");
INSERT INTO item SELECT i, repeat('w', 1000) FROM generate_series($i * 1000000, $i * 1000000 + 999) i
SQL
		$rows += 1000 if $state eq '00000';
	}
	is($rows, 10000, 'writers go on without workers');
	my $after;
	ok(wait_until(sub { ($after) = $session->rows($ask); $names->() eq 'aidb compactor,aidb flusher,aidb logger,aidb replication launcher' && $after ne $before }),
		'terminated workers come back');
	$session->rows('DELETE FROM item WHERE k >= 1000000');
}

# ---- Other settings after a crash --------------------------------------------------------------------------------

# Crashes with as much as possible in the log and nothing of it in tables, and starts with other settings.
sub restart_with {
	my ($memory, $connections, $bytes) = @_;
	my $session = AidbSession->connect_until($node);
	$session->rows('SELECT aidb.flush()');
	$session->rows('DELETE FROM item');
	for (my $row = 1; $row * 1000 <= $bytes; $row += 500) {
		$session->rows("INSERT INTO item SELECT i, repeat('z', 950) FROM generate_series($row, $row + 499) i");
	}
	my $before = join ',', $session->rows($contents), $session->rows("SELECT md5(string_agg(v, '' ORDER BY k)) FROM item");
	my ($unflushed) = $session->rows("SELECT value FROM aidb.stats() WHERE name = 'log_live_bytes'");
	$node->crash;
	$node->append_conf('postgresql.conf', "aidb.memory = '$memory'\nmax_connections = $connections");
	my $name = "with $unflushed bytes to recover, aidb.memory = $memory and max_connections = $connections";
	if (!ok($node->start(fail_ok => 1), "$name: the server starts")) {
		diag(join "\n", grep { /FATAL|aidb/ } lines_of($node->logfile));
		return;
	}
	$session = AidbSession->connect_until($node);
	my $after = eval {
		join ',', $session->rows($contents), $session->rows("SELECT md5(string_agg(v, '' ORDER BY k)) FROM item");
	};
	is($after // $@, $before, "$name: all is there");
	is($session->run("INSERT INTO item SELECT i, repeat('z', 950) FROM generate_series(-3000, -1) i"), '00000',
		"$name: and more can be written");
	return;
}

restart_with('128MB', 100, 1_500_000);
restart_with('16MB', 20, 25_000_000);
restart_with('64MB', 60, 2_000_000);
restart_with('16MB', 40, 15_000_000);

# The largest batches of a large arena, in the log of a small one.
{
	my $large = "SELECT count(*), sum(k), sum(length(v)) FROM item";
	my $session = AidbSession->connect_until($node);
	$session->rows('DELETE FROM item');
	$node->append_conf('postgresql.conf', "aidb.memory = '256MB'");
	$node->restart;
	$session = AidbSession->connect_until($node);
	for my $part (0 .. 2) {
		my $first = $part * 10000;
		is($session->transaction("INSERT INTO item SELECT i, repeat('b', 900) FROM generate_series($first, $first + 9999) i"),
			'00000', 'a transaction of some ten megabytes');
	}
	is($session->run("INSERT INTO item VALUES (-1, repeat('l', 3000000))"), '00000', 'and a row of three');
	my @before = $session->rows($large);
	$node->crash;
	$node->append_conf('postgresql.conf', "aidb.memory = '16MB'");
	$node->start;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM item");
	like($error, qr/ERROR:  54000: could not open.*DETAIL:  a record of the log needs \d+ bytes of memtable.*HINT:  .*aidb\.memory/s,
		'with memtables that are smaller than these, the store says what it needs');
	$node->append_conf('postgresql.conf', "aidb.memory = '64MB'");
	$node->restart;
	$session = AidbSession->connect_until($node);
	is(join(',', $session->rows($large)), join(',', @before), 'with larger ones all is there');
	is($session->run('SELECT aidb.flush()'), '00000', 'and can be flushed');
	$node->append_conf('postgresql.conf', "aidb.memory = '16MB'");
	$node->restart;
	is($node->safe_psql('postgres', $large), join(',', @before), 'and is there in a small one then');
}
all_is_there('after all that');
done_testing();
