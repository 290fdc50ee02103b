# Writers and readers in several backends on the smallest arena; in every round, once flushes and compactions have run, a
# random process or the whole server is killed with SIGKILL. After each restart every acknowledged commit is there, and of
# an unacknowledged one all or nothing.
#
# Rows are large and cannot be compressed, so that a round takes the store through several flushes and compactions. Half of
# the transactions move money between a heap table and an AiDb table and note that in a ledger of either kind.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{AIDB_SEED} // time ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $rounds = $ENV{AIDB_ROUNDS} // 20;
my $writers = 4;
my $readers = 2;
my $accounts = 8;
my $least_flushes = 5;
my $least_compactions = 2;
my $directory = $PostgreSQL::Test::Utils::tmp_check;

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 8MB
log_statement = none
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE page (writer int, number int, part int, filler text, PRIMARY KEY (writer, number, part)) SERVER aidb;
CREATE FOREIGN TABLE account (id int PRIMARY KEY, amount bigint) SERVER aidb;
CREATE TABLE heap_account (id int PRIMARY KEY, amount bigint);
CREATE FOREIGN TABLE ledger (writer int, number int, PRIMARY KEY (writer, number)) SERVER aidb;
CREATE TABLE heap_ledger (writer int, number int, PRIMARY KEY (writer, number));
INSERT INTO account SELECT i, 1000 FROM generate_series(1, $accounts) i;
INSERT INTO heap_account SELECT i, 1000 FROM generate_series(1, $accounts) i;
SQL

my $moment = <<"SQL";
SELECT 'sum of the accounts' WHERE (SELECT sum(amount) FROM heap_account) + (SELECT sum(amount) FROM account)
	IS DISTINCT FROM 2000 * $accounts
UNION ALL SELECT 'ledgers' WHERE (SELECT count(*) FROM ledger) <> (SELECT count(*) FROM heap_ledger)
SQL
chomp $moment;

# Runs code in a process of its own, which ends with it.
sub in_child {
	my ($code) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	my $well = eval { $code->(); 1 };
	print STDERR $@ unless $well;
	POSIX::_exit($well ? 0 : 1);
}

sub filler { return "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 200))" }

# Commits until the connection is lost; notes each acknowledged transaction in a file.
sub write_on {
	my ($writer, $first) = @_;
	open my $notes, '>>', "$directory/acknowledged.$writer" or die "open: $!";
	my $session = AidbSession->connect_until($node);
	srand($seed + $writer + $first);
	for (my $number = $first;; $number++) {
		my ($source, $target, $amount) = (1 + int rand $accounts, 1 + int rand $accounts, int rand 10);
		my $mixed = rand() < 0.5;
		my @statements = $mixed
			? ("UPDATE heap_account SET amount = amount - $amount WHERE id = $source",
				"UPDATE account SET amount = amount + $amount WHERE id = $target",
				"INSERT INTO ledger VALUES ($writer, $number)", "INSERT INTO heap_ledger VALUES ($writer, $number)")
			: ("INSERT INTO page VALUES ($writer, $number, 1, @{[filler]}), ($writer, $number, 2, @{[filler]})");
		my $state = $session->transaction(@statements) // return;
		syswrite $notes, ($mixed ? 'mixed' : 'plain') . "\t$writer\t$number\n" if $state eq '00000';
		die "SQLSTATE $state" unless $state eq '00000' || $state eq '40001' || $state eq '40P01' || $state =~ /^57P/;
		return if $state =~ /^57P/; # the server goes down
	}
}

# Looks until the connection is lost.
sub read_on {
	my $session = AidbSession->connect_until($node);
	for (;;) {
		my $state = $session->run($moment) // return;
		return if $state =~ /^57P/;
		die "a reader: SQLSTATE $state" if $state ne '00000';
		die "a reader saw a part of a transaction: $session->{output}" if $session->{output} ne '';
	}
}

# Waits until the store has done enough since the server started; the counters start with it.
sub wait_for_work {
	my $session = AidbSession->connect_until($node);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline) {
		my %stats = map { split /\|/ } $session->rows(
			"SELECT name, value FROM aidb.stats() WHERE name IN ('flushes', 'compactions')");
		return \%stats if $stats{flushes} >= $least_flushes && $stats{compactions} >= $least_compactions;
		sleep 0.02;
	}
	die 'the store does not flush and compact';
}

sub kill_something {
	my @processes = $node->processes;
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @others = grep { $_ != $postmaster } @processes;
	if (rand() < 0.5) {
		$node->crash;
		$node->start;
		return 'the whole server';
	}
	my $victim = $others[rand @others];
	my $name = slurp_file("/proc/$victim/cmdline") =~ s/\0.*//sr;
	$node->crash_backend($victim);
	return $name;
}

# What was acknowledged and is not there, and what is there in part.
sub missing {
	my $session = AidbSession->connect_until($node);
	my @found;
	$session->rows('CREATE TEMPORARY TABLE acknowledged (kind text, writer int, number int)');
	for my $file (glob "$directory/acknowledged.*") {
		my @rows = map { my ($kind, @ids) = split /\t/; "('$kind', " . join(', ', @ids) . ')' } split /\n/, slurp_file($file);
		$session->rows('INSERT INTO acknowledged VALUES ' . join ', ', splice @rows, 0, 1000) while @rows;
	}
	$session->rows('ANALYZE acknowledged');
	push @found, $session->rows(<<'SQL');
SELECT 'acknowledged, but not there', kind, a.writer, a.number FROM acknowledged a
WHERE CASE kind WHEN 'mixed' THEN NOT EXISTS (SELECT FROM ledger l WHERE l.writer = a.writer AND l.number = a.number)
	ELSE NOT EXISTS (SELECT FROM page p WHERE p.writer = a.writer AND p.number = a.number AND p.part = 1) END
SQL
	push @found, $session->rows(<<'SQL');
SELECT 'there in part', writer, number, count(*) FROM page GROUP BY writer, number
HAVING count(*) <> 2 OR bool_or(length(filler) <> 6400)
SQL
	push @found, $session->rows('SELECT \'in one ledger only\', * FROM (SELECT * FROM ledger EXCEPT SELECT * FROM heap_ledger) a');
	push @found, $session->rows('SELECT \'in one ledger only\', * FROM (SELECT * FROM heap_ledger EXCEPT SELECT * FROM ledger) a');
	push @found, $session->rows($moment);
	my ($count) = $session->rows('SELECT count(*) FROM acknowledged');
	$session->close;
	return ($count, @found);
}

for my $round (1 .. $rounds) {
	unlink glob "$directory/acknowledged.*";
	$node->safe_psql('postgres', 'TRUNCATE page');
	my @children = (
		(map { my $writer = $_; in_child(sub { write_on($writer, $round * 1_000_000) }) } 1 .. $writers),
		(map { in_child(\&read_on) } 1 .. $readers));
	my $stats = wait_for_work();
	my $killed = kill_something();
	my $failed = grep { waitpid $_, 0; $? != 0 } @children;
	my ($count, @found) = missing();
	is(join("\n", @found), '', "round $round: killed $killed after $stats->{flushes} flushes, $stats->{compactions} "
		. "compactions, $count acknowledged commits: all there, none in part");
	is($failed, 0, "round $round: writers and readers saw nothing else go wrong");
}

$node->stop;
done_testing();
