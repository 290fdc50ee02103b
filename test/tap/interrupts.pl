# Interrupts every kind of statement at random moments: pg_cancel_backend, pg_terminate_backend, statement_timeout,
# lock_timeout, and clients that are suddenly gone; while other sessions, which nobody interrupts, go on. After each the
# transaction must be there as a whole or not at all, as was acknowledged. In the end nothing may be left of them: no
# snapshot, lock, reservation, file or memory.
#
# AIDB_INTERRUPT_SECONDS is how long at the least, AIDB_TRANSACTIONS how many one session is given too little
# time for, before a look at its memory.
use strict;
use warnings;
use AidbJournal;
use AidbNode;
use AidbSession;
use List::Util qw(any shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $seconds = $ENV{AIDB_INTERRUPT_SECONDS} // 6;
my $transactions = $ENV{AIDB_TRANSACTIONS} // 900;
my $most_seconds = $seconds + $PostgreSQL::Test::Utils::timeout_default;
my $victims = 4;
my $rows = 150;      # of each victim in each table
my $big_bytes = 8000; # of a row in the table whose changes need several records of the log
my $rest_s = 0.02;   # of those who are not interrupted, so that they do not take the whole machine
my $attack_s = 0.02; # between two attacks, at the most
my $memory_slack = 1 << 20; # what a backend's memory may differ by

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $findings_file = "$folder/findings";
my $tally_file = "$folder/tally";
my $stop_file = "$folder/stop";
my $idle_file = "$folder/idle"; # a line for each victim that does nothing any more
my $leave_file = "$folder/leave";

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 8MB
log_statement = none
log_min_messages = error
log_min_error_statement = panic
client_connection_check_interval = 10ms
deadlock_timeout = 100ms
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE item (victim int, id int, n int, filler text, PRIMARY KEY (victim, id)) SERVER aidb;
CREATE FOREIGN TABLE big (victim int, id int, n int, filler text, PRIMARY KEY (victim, id)) SERVER aidb;
CREATE FOREIGN TABLE copied (victim int, id int, PRIMARY KEY (victim, id)) SERVER aidb;
CREATE FOREIGN TABLE part (victim int, number int, part int, filler text, PRIMARY KEY (victim, number, part)) SERVER aidb;
CREATE TABLE heap_part (victim int, number int, part int);
CREATE INDEX ON heap_part (victim, number);
CREATE TABLE numbers AS SELECT i AS id FROM generate_series(1, $rows) i;
INSERT INTO item SELECT v, id, 0, repeat('x', 100) FROM numbers, generate_series(1, $victims) v;
INSERT INTO big SELECT v, id, 0, repeat('x', $big_bytes) FROM numbers, generate_series(1, $victims) v;
INSERT INTO copied SELECT v, id FROM numbers, generate_series(1, $victims) v;
SELECT aidb.put('space', '', '');
SQL
for my $victim (1 .. $victims + 1) { # one more, for trials
	$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE scratch$victim (id int PRIMARY KEY) SERVER aidb;
INSERT INTO scratch$victim SELECT id FROM numbers;
COPY (SELECT $victim, id FROM numbers) TO '$folder/rows$victim';
SQL
}

# ---- Statements --------------------------------------------------------------------------------------------------

# A kind of transaction is a list of messages to the server, made for a victim and the number of the transaction. What
# it writes is marked in table part: `parts` rows; with `heap` in heap_part, too. `sets` names a table all of whose rows
# of this victim get the number as n. A kind that the server refuses when it is tried is left out.

my $mark = sub { my ($victim, $number) = @_; "INSERT INTO part VALUES ($victim, $number, 1)" };
my $mark_heap = sub { my ($victim, $number) = @_; "INSERT INTO heap_part VALUES ($victim, $number, 1)" };

# A transaction with its mark, each statement a message.
sub marked {
	my ($statements, %more) = @_;
	return {
		parts => 1,
		%more,
		messages => sub {
			my @mark = ($mark->(@_), $more{heap} ? $mark_heap->(@_) : ());
			return ('BEGIN', $statements->(@_), @mark, 'COMMIT');
		}};
}

# The same, all in one message.
sub marked_at_once {
	my ($statements, %more) = @_;
	my $kind = marked($statements, %more);
	my $messages = $kind->{messages};
	return { %$kind, messages => sub { join '\; ', $messages->(@_) } };
}

sub reading { my ($messages) = @_; return { parts => 0, messages => $messages } }

my %kinds = (
	'insert one' => { parts => 1, messages => $mark },
	'insert many' => {
		parts => 40,
		messages => sub { "INSERT INTO part VALUES " . join ', ', map { "($_[0], $_[1], $_, 'x')" } 1 .. 40 }},
	'insert select' => {
		parts => $rows,
		messages => sub { "INSERT INTO part SELECT $_[0], $_[1], id, repeat('x', 200) FROM numbers" }},
	'insert mixed' => {
		parts => 1,
		heap => 1,
		messages => sub { 'WITH h AS (' . $mark_heap->(@_) . ') ' . $mark->(@_) }},
	'insert do nothing' => {
		parts => $rows,
		messages => sub { <<"SQL" }},
INSERT INTO part SELECT $_[0], $_[1], id FROM numbers, generate_series(1, 2) ON CONFLICT DO NOTHING
SQL
	'copy' => marked(sub { "DELETE FROM copied WHERE victim = $_[0]", "COPY copied FROM '$folder/rows$_[0]'" }),
	'update by key' => marked(sub { <<"SQL" }, sets => 'item'),
DO \$\$ BEGIN
	FOR i IN 1 .. $rows LOOP UPDATE item SET n = $_[1] WHERE victim = $_[0] AND id = i; END LOOP;
END \$\$
SQL
	'update range' => marked_at_once(sub { "UPDATE item SET n = $_[1] WHERE victim = $_[0] AND id > 0" }, sets => 'item'),
	'update join' => marked(sub { <<"SQL" }, sets => 'item'),
UPDATE item SET n = $_[1] FROM numbers WHERE item.victim = $_[0] AND item.id = numbers.id
SQL
	'update asynchronous' => marked_at_once(
		sub { 'SET LOCAL synchronous_commit = off', "UPDATE item SET n = $_[1] WHERE victim = $_[0]" }, sets => 'item'),
	'update mixed asynchronous' => marked_at_once(
		sub { 'SET LOCAL synchronous_commit = off', "UPDATE item SET n = $_[1] WHERE victim = $_[0]" },
		sets => 'item', heap => 1),
	'upsert' => marked(sub { <<"SQL" }, sets => 'item'),
INSERT INTO item SELECT $_[0], id, $_[1], 'new' FROM numbers ON CONFLICT (victim, id) DO UPDATE SET n = $_[1]
SQL
	'delete and insert' => marked(sub {
		"DELETE FROM item WHERE victim = $_[0]",
		"INSERT INTO item SELECT $_[0], id, $_[1], repeat('y', 100) FROM numbers" }, sets => 'item'),
	'returning' => marked(sub { "UPDATE item SET n = $_[1] WHERE victim = $_[0] RETURNING *" }, sets => 'item'),
	'savepoints' => marked(sub {
		my ($victim, $number) = @_;
		return ((map {
			("SAVEPOINT s$_\\; INSERT INTO part VALUES ($victim, $number, 100 + $_)\\;"
				. " UPDATE item SET n = -1 WHERE victim = $victim AND id <= 20\\; ROLLBACK TO s$_") } 1 .. 4),
			map { "SAVEPOINT t$_\\; UPDATE item SET n = $number WHERE victim = $victim AND id % 4 = $_ - 1\\; RELEASE t$_" }
			1 .. 4) }, sets => 'item'),
	'exceptions' => marked_at_once(sub { <<"SQL" }, sets => 'item'),
DO \$\$ BEGIN
	FOR i IN 1 .. $rows LOOP
		BEGIN
			UPDATE item SET n = $_[1] WHERE victim = $_[0] AND id = i;
			IF i % 3 = 0 THEN INSERT INTO item VALUES ($_[0], i); END IF;
			IF i % 5 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN unique_violation OR division_by_zero THEN
			UPDATE item SET n = $_[1] WHERE victim = $_[0] AND id = i;
		END;
	END LOOP;
END \$\$
SQL
	'select and rollback' => reading(sub {
		'BEGIN', "UPDATE item SET n = -1 WHERE victim = $_[0]", "INSERT INTO part VALUES ($_[0], -$_[1], 1)",
		'SELECT count(*), sum(n) FROM item', 'ROLLBACK' }),
	'select scan' => reading(sub { 'SELECT count(*), sum(length(filler)) FROM item' }),
	'select big' => reading(sub { 'SELECT sum(length(filler)) FROM big' }),
	'select backwards' => reading(sub {
		"SELECT victim, id FROM item ORDER BY victim DESC, id DESC LIMIT 100" }),
	'select points' => reading(sub { <<"SQL" }),
DO \$\$ BEGIN FOR i IN 1 .. $rows LOOP PERFORM n FROM item WHERE victim = $_[0] AND id = i; END LOOP; END \$\$
SQL
	'select join' => reading(sub { 'SELECT count(*) FROM item a JOIN item b USING (id) WHERE a.n >= b.n' }),
	'select lateral' => reading(sub { <<"SQL" }),
SELECT count(*) FROM numbers, LATERAL (SELECT * FROM item WHERE item.id = numbers.id AND victim = $_[0] OFFSET 0) i
SQL
	'cursor' => reading(sub {
		'BEGIN', 'DECLARE c CURSOR FOR SELECT * FROM item', 'FETCH 50 FROM c', 'MOVE 20 FROM c', 'FETCH 10 FROM c',
		'COMMIT' }),
	'two cursors' => reading(sub {
		'BEGIN ISOLATION LEVEL REPEATABLE READ', 'DECLARE c CURSOR FOR SELECT * FROM item', 'FETCH 50 FROM c',
		'SAVEPOINT s', 'DECLARE d CURSOR FOR SELECT * FROM big', 'FETCH 50 FROM d', 'ROLLBACK TO s', 'FETCH ALL FROM c',
		'COMMIT' }),
	'cursor with hold' => reading(sub {
		'BEGIN', 'DECLARE held CURSOR WITH HOLD FOR SELECT * FROM item', 'FETCH 50 FROM held', 'COMMIT',
		'FETCH 50 FROM held', 'CLOSE held' }),
	'select for update' => reading(sub {
		'BEGIN', "SELECT * FROM item WHERE victim = $_[0] FOR UPDATE", 'SAVEPOINT s',
		'SELECT * FROM item WHERE id = 1 FOR SHARE', 'ROLLBACK TO s', 'COMMIT' }),
	'truncate' => marked(sub { "TRUNCATE scratch$_[0]", "INSERT INTO scratch$_[0] SELECT id FROM numbers" }),
	'create and drop' => marked(sub {
		my $name = "made_$_[0]_$_[1]";
		return ("CREATE FOREIGN TABLE $name (id int PRIMARY KEY) SERVER aidb", "INSERT INTO $name SELECT id FROM numbers",
			"DROP FOREIGN TABLE $name") }),
	'alter' => marked(sub {
		"ALTER FOREIGN TABLE scratch$_[0] ADD COLUMN more int DEFAULT 7", "UPDATE scratch$_[0] SET more = id",
		"ALTER FOREIGN TABLE scratch$_[0] DROP COLUMN more" }),
	'analyze' => reading(sub { 'ANALYZE item' }),
	'explain analyze' => reading(sub { 'EXPLAIN ANALYZE SELECT * FROM item ORDER BY filler' }),
	'mixed' => marked_at_once(sub { "UPDATE item SET n = $_[1] WHERE victim = $_[0]" }, sets => 'item', heap => 1),
	'many batches' => marked_at_once(sub { "UPDATE big SET n = $_[1] WHERE victim = $_[0]" }, sets => 'big'),
	'many batches mixed' =>
		marked_at_once(sub { "UPDATE big SET n = $_[1] WHERE victim = $_[0]" }, sets => 'big', heap => 1),
	'error at the end' => reading(sub { <<"SQL" }),
DO \$\$ BEGIN
	UPDATE item SET n = -1 WHERE victim = $_[0];
	UPDATE item SET n = 1 / (id - $rows) WHERE victim = $_[0];
EXCEPTION WHEN division_by_zero THEN
	NULL;
END \$\$
SQL
	'prepare' => {
		parts => 1,
		sets => 'item',
		gid => 1,
		messages => sub {
			'BEGIN', "UPDATE item SET n = $_[1] WHERE victim = $_[0]", $mark->(@_),
			"PREPARE TRANSACTION '$_[0] $_[1]'", "COMMIT PREPARED '$_[0] $_[1]'" }},
	'functions' => marked(sub {
		my ($victim, $number) = @_;
		return ("SELECT aidb.put('space', convert_to('$victim ' || id, 'UTF8'), '$number') FROM numbers",
			"SELECT aidb.delete('space', convert_to('$victim ' || id, 'UTF8')) FROM numbers WHERE id % 2 = 0",
			"SELECT count(*) FROM aidb.scan('space')") }),
	'read functions' => reading(sub { <<"SQL" }),
SELECT count(*) FROM aidb.batch_get('space', (SELECT array_agg(convert_to('$_[0] ' || id, 'UTF8')) FROM numbers))
SQL
	'flush' => reading(sub { 'SELECT aidb.flush()' }),
);

# The SQLSTATE of the first message that fails, '00000' when none does; undef: connection lost.
sub send_messages {
	my ($session, @messages) = @_;
	for my $message (@messages) {
		my $state = $session->run($message);
		return $state unless defined $state && $state eq '00000';
	}
	return '00000';
}

# Which kinds there are in this version.
{
	my $session = AidbSession->connect($node);
	my $number = 0;
	for my $name (sort keys %kinds) {
		my $state = send_messages($session, $kinds{$name}{messages}->($victims + 1, ++$number));
		$session->run('ROLLBACK');
		if ($state =~ /^(0A|42P10)/) {
			note "not there in this version, SQLSTATE $state: $name";
			delete $kinds{$name};
		} elsif ($state ne '00000') {
			fail("$name works: SQLSTATE $state");
		}
	}
}
my @names = sort keys %kinds;

# ---- Processes ---------------------------------------------------------------------------------------------------

my @background;
my $main_pid = $$;

sub in_background {
	my ($code, @arguments) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		srand $seed + @background;
		eval { $code->(@arguments); 1 } or append($findings_file, "error: $@");
		POSIX::_exit(0);
	}
	push @background, $pid;
	return;
}

END {
	kill 'KILL', @background if $$ == $main_pid;
}

# ---- Victims -----------------------------------------------------------------------------------------------------

my @pauses = qw(precommit_begin precommit_reserved precommit_piece_prepared
	precommit_prepared commit_begin sequence_taken log_copied memtable_inserted published commit_end commit_mixed_begin
	commit_mixed_end abort_begin subtransaction_abort subtransaction_commit);

# Now and then a limit, or a step of the commit that takes its time.
sub settings {
	my $statement_timeout = rand() < 0.3 ? 1 + int rand 15 : 0;
	my $lock_timeout = rand() < 0.3 ? 1 + int rand 15 : 0;
	my $pause = rand() < 0.2 ? $pauses[rand @pauses] . '=pause' : '';
	return "SET statement_timeout = 0\\; SET lock_timeout = $lock_timeout\\; SET aidb.fault_point = '$pause'\\;"
		. " SET statement_timeout = $statement_timeout";
}

# What the tables hold of the transaction, by a session that nobody interrupts: parts, of them on the heap, n of item and
# of big; and all else must be as ever.
sub look {
	my ($observer, $victim, $number) = @_;
	my ($found) = $observer->rows(<<"SQL");
SELECT (SELECT count(*) FROM part WHERE victim = $victim AND abs(number) = $number),
	(SELECT count(*) FROM heap_part WHERE victim = $victim AND number = $number),
	(SELECT CASE WHEN min(n) = max(n) AND count(*) = $rows THEN min(n) END FROM item WHERE victim = $victim),
	(SELECT CASE WHEN min(n) = max(n) AND count(*) = $rows THEN min(n) END FROM big WHERE victim = $victim),
	(SELECT count(*) FROM copied WHERE victim = $victim), (SELECT count(*) FROM scratch$victim)
SQL
	my ($parts, $heap, $item, $big, $copied, $scratch) = split /\|/, $found, -1;
	return ($parts, $heap, { item => $item, big => $big }, $copied == $rows && $scratch == $rows);
}

# Checks what has become of it. `fate` is the SQLSTATE of the end, undef when the connection was lost. %$n is the number
# that each table has, and gets the new one.
sub judge {
	my ($observer, $name, $victim, $number, $fate, $n) = @_;
	my $kind = $kinds{$name};
	my ($parts, $heap, $now, $others) = look($observer, $victim, $number);
	my $present = $kind->{parts} > 0 && $parts > 0;
	my $heap_parts = $present && $kind->{heap} ? 1 : 0;
	my @wrong;
	push @wrong, "failed with SQLSTATE $fate" if defined $fate && $fate !~ /^(00000|57014|55P03|40001|40P01)$/;
	push @wrong, "$parts of $kind->{parts} parts are there" if $parts != ($present ? $kind->{parts} : 0);
	push @wrong, "of the heap $heap parts are there" if $heap != $heap_parts;
	push @wrong, 'tables that it changed are not as they were' if !$others;
	if (defined $fate && $kind->{parts} > 0 && !$kind->{gid}) {
		push @wrong, 'it is acknowledged and not there' if $fate eq '00000' && !$present;
		push @wrong, 'it failed and is there' if $fate ne '00000' && $present;
	}
	$n->{ $kind->{sets} } = $number if $present && $kind->{sets};
	for my $table (qw(item big)) {
		push @wrong, "$table has $now->{$table}, which should be $n->{$table}" if $now->{$table} ne $n->{$table};
		$n->{$table} = $now->{$table};
	}
	append($findings_file, "$name, transaction $number of victim $victim, SQLSTATE " . ($fate // 'lost') . ": $_")
		for @wrong;
	return;
}

# Two-phase: whoever finds it prepared finishes it.
sub finish_prepared {
	my ($observer, $gid) = @_;
	for my $found ($observer->rows("SELECT gid FROM pg_prepared_xacts WHERE gid = '$gid'")) {
		$observer->rows((rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$found'");
	}
	return;
}

sub connect_victim {
	my $session = AidbSession->connect_until($node);
	my $state = $session->run("SELECT set_config('application_name', 'victim $session->{pid}', false), pg_backend_pid()");
	return unless defined $state && $state eq '00000';
	($session->{backend}) = $session->{output} =~ /\|(\d+)/;
	return $session;
}

# Ends what is open; that may be interrupted, too. False when the session was lost.
sub come_to_rest {
	my ($session) = @_;
	my $state;
	do {
		$state = send_messages($session, 'ROLLBACK', 'SET statement_timeout = 0', 'CLOSE ALL');
	} while (defined $state && $state ne '00000');
	return defined $state;
}

# One transaction. The session, or undef when it was lost.
sub be_interrupted {
	my ($session, $observer, $name, $victim, $number, $n) = @_;
	my $kind = $kinds{$name};
	my $fate = send_messages($session, settings(), $kind->{messages}->($victim, $number));
	my $lives = defined $fate && come_to_rest($session);
	AidbNode::wait_gone($session->{backend}) unless $lives;
	finish_prepared($observer, "$victim $number") if $kind->{gid};
	judge($observer, $name, $victim, $number, $fate, $n);
	append($tally_file, "$name: " . (defined $fate ? $fate eq '00000' ? 'done' : 'stopped' : 'lost'));
	return $lives ? $session : undef;
}

sub suffer {
	my ($victim) = @_;
	my $observer = AidbSession->connect_until($node);
	my %n = (item => 0, big => 0);
	my ($session, @left);
	for (my $number = 1; !-e $stop_file; $number++) {
		$session //= connect_victim() // next;
		@left = shuffle(@names) unless @left;
		$session = be_interrupted($session, $observer, shift @left, $victim, $number, \%n);
	}
	append($idle_file, $victim); # and the session stays
	sleep 0.05 until -e $leave_file;
	return;
}

# ---- Those who are not interrupted -------------------------------------------------------------------------------

sub rival {
	my $session = AidbSession->connect_until($node);
	until (-e $stop_file) {
		my ($victim, $id) = (1 + int rand $victims, 1 + int rand $rows);
		my $state = $session->run("UPDATE item SET filler = 'rival' WHERE victim = $victim AND id = $id");
		append($findings_file, "the rival got SQLSTATE $state") if $state !~ /^(00000|40001|40P01)$/;
		append($tally_file, 'rival: done') if $state eq '00000';
		sleep $rest_s;
	}
	return;
}

sub read_all {
	my $session = AidbSession->connect_until($node);
	my $counts = join ', ', map { "(SELECT count(*) FROM scratch$_)" } 1 .. $victims;
	my $wanted = join '|', ($rows) x $victims, $victims;
	until (-e $stop_file) {
		my ($found) = $session->rows("SELECT $counts, (SELECT count(DISTINCT (victim, n)) FROM item WHERE victim <= $victims)");
		append($findings_file, "a reader saw $found") if $found ne $wanted;
		append($tally_file, 'reader: done');
		sleep $rest_s;
	}
	return;
}

# ---- The attack --------------------------------------------------------------------------------------------------

my %attacks = ('pg_cancel_backend' => 0, 'pg_terminate_backend' => 0, 'disconnect' => 0);

sub attack {
	my ($session) = @_;
	my $how = rand() < 0.7 ? 'pg_cancel_backend' : rand() < 0.6 ? 'pg_terminate_backend' : 'disconnect';
	my $function = $how eq 'disconnect' ? '' : $how;
	my ($victim) = $session->rows(<<"SQL");
SELECT $function(pid), split_part(application_name, ' ', 2) FROM (SELECT pid, application_name FROM pg_stat_activity
	WHERE application_name LIKE 'victim %' AND state = 'active' ORDER BY random() LIMIT 1) v
SQL
	return unless defined $victim;
	kill 'KILL', (split /\|/, $victim)[1] if $how eq 'disconnect';
	$attacks{$how}++;
	return;
}

# Kinds that were not yet both done and stopped.
sub unfinished {
	my %tally;
	$tally{$_}++ for lines_of($tally_file);
	return grep { !$tally{"$_: done"} || !($tally{"$_: stopped"} || $tally{"$_: lost"}) } @names;
}

in_background(\&suffer, $_) for 1 .. $victims;
in_background(\&rival);
in_background(\&read_all);
{
	my $session = AidbSession->connect($node);
	my ($start, $looked, @unfinished) = (time, 0, @names);
	while (time - $start < $seconds || (@unfinished && time - $start < $most_seconds)) {
		attack($session);
		sleep rand $attack_s;
		if (time - $looked > 1) {
			@unfinished = unfinished();
			$looked = time;
		}
	}
	is(join(', ', @unfinished), '', 'every kind of statement ran to its end, and was interrupted');
}
append($stop_file, 'stop');

# ---- What is left ------------------------------------------------------------------------------------------------

sub wait_until {
	my ($condition) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.05 until $condition->() || time > $deadline;
	return;
}

my $session = AidbSession->connect($node);

# What is held and should not be. The one snapshot is the asker's own.
my $held = <<'SQL';
SELECT name || ': ' || value FROM aidb.stats() WHERE value <> (name = 'snapshots')::int
	AND name IN ('snapshots', 'readers', 'reservations', 'reserved_bytes', 'row_locks', 'asynchronous_commits')
UNION ALL SELECT concat_ws(' ', 'lock:', locktype, mode, relation::regclass, pid) FROM pg_locks
	WHERE pid IS DISTINCT FROM pg_backend_pid()
	AND coalesce(pid, 0) NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'aidb logger')
UNION ALL SELECT 'not idle: ' || state FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'
UNION ALL SELECT 'temporary file ' || name FROM pg_ls_tmpdir()
UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts
SQL
chomp $held;

sub nothing_is_held {
	my ($name) = @_;
	my @left;
	wait_until(sub { @left = $session->rows($held); !@left });
	is(join("\n", @left), '', $name);
	return;
}

wait_until(sub { $victims == lines_of($idle_file) });
is(scalar(lines_of($idle_file)), $victims, 'all victims have come to rest');
is(join("\n", lines_of($findings_file)), '', 'each transaction is there as a whole or not at all, as acknowledged');
{
	my %tally;
	s/.*: //, $tally{$_}++ for lines_of($tally_file);
	note join ', ', map { "$_ $tally{$_}" } sort keys %tally;
	note join ', ', map { "$_ $attacks{$_}" } sort keys %attacks;
	my %by = map { /^(rival|reader): done/ ? ($1 => 1) : () } lines_of($tally_file);
	is(join(' ', sort keys %by), 'reader rival', 'those who were not interrupted got on');
	ok(!(any { !$attacks{$_} } keys %attacks), 'there were attacks of each sort');
}
nothing_is_held('of interrupted statements nothing is held while their sessions are idle');

# Files that are not the store's, or that it does not count.
sub stray_files {
	my @stats = $session->rows("SELECT sum(value) FROM aidb.stats() WHERE name ~ '^level._files\$'");
	my @names = map { s{.*/}{}r } glob $node->data_dir . '/aidb/*';
	my $tables = grep { /\.sst$/ } @names;
	my @stray = grep { !/^([0-9a-f]+\.(sst|log)|MANIFEST)$/ } @names;
	push @stray, "$tables tables for $stats[0]" if $tables != $stats[0];
	return @stray;
}

{
	my @stray;
	$session->rows('SELECT aidb.flush()');
	wait_until(sub { @stray = stray_files(); !@stray });
	is(join(', ', @stray), '', 'no file is left over');
}
append($leave_file, 'leave');
waitpid $_, 0 for @background;
@background = ();
nothing_is_held('nor when the sessions have ended');

# ---- Memory of a session -----------------------------------------------------------------------------------------

# Bytes in PostgreSQL's memory contexts, and bytes of the process that are not shared.
sub memory_of {
	my ($of) = @_;
	my ($contexts, $pid) = split /\|/, ($of->rows('SELECT sum(total_bytes), pg_backend_pid() FROM pg_backend_memory_contexts'))[0];
	my ($private) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return ($contexts, 1024 * $private);
}

my $number = @names + 1; # of transactions that were tried

# Transactions with so little time that many are cancelled; how many were.
sub be_cancelled {
	my ($of, $count) = @_;
	my $victim = $victims + 1;
	my @mine = grep { $kinds{$_}{parts} == 0 || $kinds{$_}{sets} } @names;
	my $stopped = 0;
	for (1 .. $count) {
		my $name = $mine[++$number % @mine];
		my $state = send_messages($of, 'SET statement_timeout = 1', $kinds{$name}{messages}->($victim, $number));
		send_messages($of, 'ROLLBACK\; SET statement_timeout = 0\; CLOSE ALL');
		finish_prepared($session, "$victim $number") if $kinds{$name}{gid};
		$stopped++ if $state ne '00000';
	}
	return $stopped;
}

{
	my $of = AidbSession->connect($node);
	be_cancelled($of, int($transactions / 3));
	my ($contexts_before, $private_before) = memory_of($of);
	my $stopped = be_cancelled($of, $transactions - int($transactions / 3));
	my ($contexts, $private) = memory_of($of);
	cmp_ok($stopped, '>', $transactions / 20, "$stopped more transactions of a session were cancelled");
	cmp_ok($contexts, '<', $contexts_before + $memory_slack, "memory contexts do not grow from $contexts_before bytes");
	SKIP: {
		skip 'a sanitizer keeps freed memory', 1 if $node->is_sanitized;
		cmp_ok($private, '<', $private_before + $memory_slack, "nor does the process from $private_before");
	}
	my ($pid) = $of->rows('SELECT pg_backend_pid()');
	my @files;
	wait_until(sub {
		$of->rows('SELECT count(*) FROM item');
		@files = map { readlink($_) // () } glob "/proc/$pid/fd/*";
		!grep { /\.sst \(deleted\)/ } @files;
	});
	is(join(', ', grep { /\.sst \(deleted\)/ } @files), '', 'nor has it files open that were removed');
	cmp_ok(scalar @files, '<', 200, 'nor many others');
	nothing_is_held('and nothing is held by it');
}

# ---- The end -----------------------------------------------------------------------------------------------------

my $everything = join ', ', map { "(SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM $_ t)" }
	qw(item big copied part heap_part), map { "scratch$_" } 1 .. $victims;
my ($before, $pid) = map { $session->rows("SELECT $_") } $everything, 'pg_backend_pid()';
$node->crash_backend($pid);
is($node->safe_psql('postgres', "SELECT $everything"), $before, 'after a crash all is as it was');
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
done_testing();
