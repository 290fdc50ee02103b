# Kills the server twenty times while several sessions write and read with the smallest arena there is, so that flushes
# and compactions never rest, and shows each time that every acknowledged commit is found and no part of any other.
#
# Each writer rewrites and deletes rows of its own in one AiDb table, several in a transaction, and moves money between
# shared accounts in a heap table and in an AiDb table. Before a transaction it notes what it is about to do, and when
# that is acknowledged it notes that. So for each writer the rows must be those of its acknowledged transactions, either
# with or without the one that was under way.
use strict;
use warnings;
use AidbJournal;
use AidbNode;
use AidbSession;
use Digest::MD5 qw(md5_hex);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = 20;
my $writers = 3;
my $keys = 2000; # of each writer
my $accounts = 4;
my $least_flushes = 5;
my $least_compactions = 2;

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $random_bytes = join '', map { pack 'N', int rand 2**32 } 1 .. 65536;
my $findings_file = "$PostgreSQL::Test::Utils::tmp_check/findings";

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 4MB
log_statement = none
log_min_messages = log
log_min_error_statement = panic
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE item (writer int, id int, number int, value bytea, PRIMARY KEY (writer, id)) SERVER aidb;
CREATE TABLE heap_account (id int PRIMARY KEY, amount bigint);
CREATE FOREIGN TABLE account (id int PRIMARY KEY, amount bigint) SERVER aidb;
CREATE FOREIGN TABLE ledger
	(writer int, number int, source int, target int, amount bigint, PRIMARY KEY (writer, number)) SERVER aidb;
CREATE TABLE heap_ledger (writer int, number int, source int, target int, amount bigint, PRIMARY KEY (writer, number));
INSERT INTO heap_account SELECT i, 1000 FROM generate_series(1, $accounts) i;
INSERT INTO account SELECT i, 1000 FROM generate_series(1, $accounts) i;
SQL

# ---- Writers and readers, one process each; they end when the connection is lost ---------------------------------

sub journal_of { return "$PostgreSQL::Test::Utils::tmp_check/journal$_[0]" }

# A transaction on the writer's own rows: its statements, and a word for the journal on each row: id=digest, or id= for
# a row that is deleted.
sub rewrite_rows {
	my ($writer, $number) = @_;
	my (%digest, @values);
	for my $id (map { 1 + int rand $keys } 1 .. 2 + int rand 14) {
		next if exists $digest{$id};
		$digest{$id} = '';
		next if rand() < 0.1;
		my $value = substr $random_bytes, int rand(length($random_bytes) - 2048), 1024 + int rand 1024;
		$digest{$id} = md5_hex($value);
		push @values, "($writer, $id, $number, '\\x" . unpack('H*', $value) . "')";
	}
	my @statements = "DELETE FROM item WHERE writer = $writer AND id IN (" . join(', ', keys %digest) . ')';
	push @statements, 'INSERT INTO item VALUES ' . join ', ', @values if @values;
	return (join(' ', map { "$_=$digest{$_}" } keys %digest), @statements);
}

sub move_money {
	my ($writer, $number) = @_;
	my ($source, $target) = map { 1 + int rand $accounts } 1 .. 2;
	my $amount = int(rand 100) - 50;
	return (
		'money',
		"UPDATE heap_account SET amount = amount - $amount WHERE id = $source",
		"UPDATE account SET amount = amount + $amount WHERE id = $target",
		"INSERT INTO ledger VALUES ($writer, $number, $source, $target, $amount)",
		"INSERT INTO heap_ledger VALUES ($writer, $number, $source, $target, $amount)");
}

sub write_on {
	my ($session, $writer, $round) = @_;
	my $journal = journal_of($writer);
	for (my $number = $round * 1_000_000;; $number++) {
		my ($what, @statements) = rand() < 0.2 ? move_money($writer, $number) : rewrite_rows($writer, $number);
		append($journal, "try $number $what");
		my $state = '40P01';
		$state = $session->transaction(@statements) while defined $state && $state eq '40P01';
		return unless defined $state;
		die "transaction $number of writer $writer failed with SQLSTATE $state" if $state ne '00000';
		append($journal, "done $number");
	}
}

sub read_on {
	my ($session) = @_;
	for (;;) {
		my ($sum) = $session->rows(
			'SELECT (SELECT sum(amount) FROM heap_account) + (SELECT sum(amount) FROM account)');
		append($findings_file, "a reader saw a sum of $sum") if $sum != 2000 * $accounts;
		my $writer = 1 + int rand $writers;
		my $id = 1 + int rand $keys;
		$session->rows("SELECT count(md5(value)) FROM item WHERE writer = $writer AND id BETWEEN $id AND $id + 100");
	}
}

# Forks a process that runs code with a session, and returns its id.
sub in_background {
	my ($code, @arguments) = @_;
	my $its_seed = int rand 2**31;
	my $pid = fork // die "fork: $!";
	return $pid if $pid != 0;
	srand $its_seed;
	my $done = eval {
		my $session = AidbSession->connect($node);
		$code->($session, @arguments) if $session;
		1;
	};
	append($findings_file, "error: $@") if !$done && $@ !~ /connection lost/;
	POSIX::_exit(0);
}

# ---- What must be found ------------------------------------------------------------------------------------------

my @rows = map { {} } 0 .. $writers; # of each writer, id => digest
my @money = map { {} } 0 .. $writers; # numbers of its acknowledged transfers

# Reads a writer's journal: applies what was acknowledged; the one that was not, when there is one.
sub read_journal {
	my ($writer) = @_;
	my ($open_number, $open, $done) = (undef, undef, 0);
	for my $line (lines_of(journal_of($writer))) {
		my ($word, $number, $what) = split / /, $line, 3;
		if ($word eq 'try') {
			($open_number, $open) = ($number, $what);
			next;
		}
		apply($rows[$writer], $open);
		$money[$writer]{$number} = 1 if $open eq 'money';
		$done++;
		undef $open;
	}
	unlink journal_of($writer);
	return ($done, $open_number, $open);
}

sub apply {
	my ($rows, $what) = @_;
	return if $what eq 'money';
	for my $word (split / /, $what) {
		my ($id, $digest) = split /=/, $word, 2;
		delete $rows->{$id};
		$rows->{$id} = $digest if $digest ne '';
	}
	return;
}

# The first difference between two sets of rows.
sub difference {
	my ($expected, $found) = @_;
	for my $id (keys %{ { %$expected, %$found } }) {
		my ($should, $is) = map { $_->{$id} // 'absent' } $expected, $found;
		return "row $id is $is and should be $should" if $is ne $should;
	}
	return;
}

# What is wrong with a writer's rows, given the transaction that was under way.
sub check_rows {
	my ($session, $writer, $open) = @_;
	my %found = map { split /\|/ } $session->rows("SELECT id, md5(value) FROM item WHERE writer = $writer");
	my $without = difference($rows[$writer], \%found) // return;
	return "writer $writer: $without" if !defined $open || $open eq 'money';
	my %with = %{ $rows[$writer] };
	apply(\%with, $open);
	my $wrong = difference(\%with, \%found);
	return "writer $writer: neither $without nor, with the transaction under way, $wrong" if defined $wrong;
	$rows[$writer] = \%with;
	return;
}

# The same for its transfers.
sub check_money {
	my ($session, $writer, $open_number, $open) = @_;
	my %found = map { $_ => 1 } $session->rows("SELECT number FROM ledger WHERE writer = $writer");
	my @wrong = map { "transfer $_ of writer $writer is missing" } grep { !$found{$_} } keys %{ $money[$writer] };
	for my $number (grep { !$money[$writer]{$_} } keys %found) {
		if (defined $open && $open eq 'money' && $number == $open_number) {
			$money[$writer]{$number} = 1;
		} else {
			push @wrong, "transfer $number of writer $writer came from nowhere";
		}
	}
	return @wrong;
}

my $balance = <<"SQL";
SELECT 'transfer ' || number || ' is but in one ledger' FROM ledger l FULL JOIN heap_ledger h USING (writer, number)
	WHERE l.amount IS DISTINCT FROM h.amount
UNION ALL SELECT 'heap account ' || id FROM heap_account LEFT JOIN (SELECT source, sum(amount) FROM ledger GROUP BY 1) l
	ON source = id WHERE amount <> 1000 - coalesce(sum, 0)
UNION ALL SELECT 'account ' || id FROM account LEFT JOIN (SELECT target, sum(amount) FROM ledger GROUP BY 1) l
	ON target = id WHERE amount <> 1000 + coalesce(sum, 0)
SQL
chomp $balance;

# All that is wrong, after the writers have ended and the server is back; and how much was acknowledged.
sub check {
	my $session = AidbSession->connect_until($node);
	my ($acknowledged, @wrong) = (0);
	for my $writer (1 .. $writers) {
		my ($done, $open_number, $open) = read_journal($writer);
		$acknowledged += $done;
		push @wrong, check_rows($session, $writer, $open), check_money($session, $writer, $open_number, $open);
	}
	push @wrong, $session->rows($balance), lines_of($findings_file);
	return ($acknowledged, @wrong);
}

# ---- The loop ----------------------------------------------------------------------------------------------------

sub numbers_of {
	my ($session) = @_;
	return map { split /\|/ } $session->rows('SELECT * FROM aidb.stats()');
}

# Waits until there was enough work since the server started, and some more by chance.
sub wait_for_work {
	my ($session) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($flushes, $compactions) = ($least_flushes + int rand 3, $least_compactions + int rand 2);
	my %number;
	do {
		sleep rand 0.05;
		%number = numbers_of($session);
	} until ($number{flushes} >= $flushes && $number{compactions} >= $compactions) || time > $deadline;
	return %number;
}

# Kills the postmaster with all others, or one other process of the server, which makes the postmaster end all of them. Not the
# backend of the session that watches: it may be gone before it is killed, and nothing would happen.
sub kill_something {
	my ($watcher) = @_;
	if (rand() < 0.3) {
		$node->crash;
		$node->start;
		return 'postmaster';
	}
	my ($spared) = $watcher->rows('SELECT pg_backend_pid()');
	my @processes = split /\n/, $node->safe_psql('postgres', <<"SQL");
SELECT pid, backend_type FROM pg_stat_activity WHERE pid NOT IN (pg_backend_pid(), $spared) AND backend_type IN
	('client backend', 'aidb flusher', 'aidb compactor', 'aidb logger', 'checkpointer', 'walwriter')
SQL
	my ($pid, $type) = split /\|/, $processes[rand @processes];
	$node->crash_backend($pid);
	return $type;
}

my @background;

END {
	kill 'KILL', @background;
}

for my $round (1 .. $rounds) {
	@background = ((map { in_background(\&write_on, $_, $round) } 1 .. $writers), map { in_background(\&read_on) } 1 .. 2);
	my $watcher = AidbSession->connect_until($node);
	my %number = wait_for_work($watcher);
	my $victim = kill_something($watcher);
	waitpid $_, 0 for @background;
	@background = ();
	my ($acknowledged, @wrong) = check();
	my $worked = $number{flushes} >= $least_flushes && $number{compactions} >= $least_compactions;
	ok($worked && $acknowledged > 0, "round $round: $number{flushes} flushes, $number{compactions} compactions, "
		. "$acknowledged transactions acknowledged, then killed: $victim");
	is(join("\n", @wrong), '', "round $round: every acknowledged transaction is there, and no part of another");
}
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
done_testing();
