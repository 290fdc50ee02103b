# Several sessions run SERIALIZABLE transactions, each of which by itself keeps what must hold, but which would break it together
# with another in snapshot isolation (write skew): the sum of two accounts is not negative, wherever they are stored and however
# they are read; at most one row is in a range; at most one row of a key space is. Many commits rest between their checks and
# their writes, and many transactions between their first snapshot and what they do, so that others write in the meantime.
# Before that, a commit rests when it can be seen already.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{AIDB_SECONDS} // 8;
my $sessions = 4;
my $least_commits = 100;
my $least_refusals = 10;
my $pairs = 3;

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
default_transaction_isolation = serializable
log_min_error_statement = panic
CONF

$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE pair (id int, side int, amount int, PRIMARY KEY (id, side)) SERVER aidb;
CREATE TABLE heap_side (id int PRIMARY KEY, amount int);
CREATE FOREIGN TABLE aidb_side (id int PRIMARY KEY, amount int) SERVER aidb;
CREATE FOREIGN TABLE lonely (id int PRIMARY KEY) SERVER aidb;
INSERT INTO pair SELECT i, s, 50 FROM generate_series(1, $pairs) i, generate_series(0, 1) s;
INSERT INTO heap_side SELECT i, 50 FROM generate_series(1, $pairs) i;
INSERT INTO aidb_side SELECT i, 50 FROM generate_series(1, $pairs) i;
SELECT aidb.put('lonely', 'none', 'yet'), aidb.delete('lonely', 'none');
SQL

# ---- A reader between two commits ----------------------------------------------------------------------------

# One has read that there is no row 2 and changes row 1; another inserts row 2 and is seen first. A reader who sees that row, but
# not the change, closes the circle. PostgreSQL takes for first who is first done with the end of its transaction, so what a
# commit does after it can be seen must not come in between. Undefined when the inserting commit did not rest for long enough.
sub read_between_commits {
	my ($first, $second, $reader) = map { AidbSession->connect($node) // die 'cannot connect' } 1 .. 3;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	$node->safe_psql('postgres', "DELETE FROM chain; INSERT INTO chain VALUES (1, 'old')");
	$second->run("SET aidb.fault_point = 'commit_mixed_begin=pause'");
	$first->rows('BEGIN');
	$first->rows('SELECT * FROM chain WHERE id = 2');
	$first->rows("UPDATE chain SET value = 'new' WHERE id = 1");
	$second->start("INSERT INTO chain VALUES (2, 'seen')");
	until ($reader->rows('SELECT * FROM chain WHERE id = 2')) {
		die 'the row does not come' if time > $deadline;
	}
	$reader->rows('BEGIN');
	my @seen = $reader->rows('SELECT * FROM chain WHERE id = 2');
	my $change = $first->run('COMMIT');
	my $rested = $second->is_running;
	my $insert = $second->read_end;
	my $read = $reader->run('SELECT * FROM chain WHERE id = 1');
	return $rested ? "$insert $change @seen $read" : undef;
}

$node->safe_psql('postgres', 'CREATE FOREIGN TABLE chain (id int PRIMARY KEY, value text) SERVER aidb');
my $between;
my $chain_deadline = time + $PostgreSQL::Test::Utils::timeout_default;
until (defined($between = read_between_commits()) || time > $chain_deadline) { }
is($between, '00000 00000 2|seen 40001', 'who is seen first has committed first');

# ---- Transactions --------------------------------------------------------------------------------------------

# Takes from one side of a pair what both have together, or fills it up when that is little. The ways of reading are alike in
# what they find.
sub change_pair {
	my ($id, $side) = (1 + int rand $pairs, int rand 2);
	my @reads = (
		"id = $id",
		"id = $id AND side IN (0, 1)",
		"id BETWEEN $id AND $id",
		"id >= $id AND id < $id + 1 AND side >= 0");
	my $sum = "(SELECT sum(amount) FROM pair WHERE $reads[rand @reads])";
	return "UPDATE pair SET amount = amount + CASE WHEN $sum >= 80 THEN -80 ELSE 100 END WHERE id = $id AND side = $side";
}

sub change_sides {
	my $id = 1 + int rand $pairs;
	my $side = rand() < 0.5 ? 'heap_side' : 'aidb_side';
	my $sum = "(SELECT h.amount + a.amount FROM heap_side h JOIN aidb_side a USING (id) WHERE id = $id)";
	return "UPDATE $side SET amount = amount + CASE WHEN $sum >= 80 THEN -80 ELSE 100 END WHERE id = $id";
}

sub change_lonely {
	my ($id, $range) = (int rand 1000, rand() < 0.5 ? 'id >= 0' : 'id BETWEEN 0 AND 999 ORDER BY id DESC');
	return 'DELETE FROM lonely WHERE id < 1000' if rand() < 0.4;
	return "INSERT INTO lonely SELECT $id WHERE NOT EXISTS (SELECT FROM lonely WHERE $range)";
}

sub change_space {
	my $key = int rand 1000;
	return "SELECT aidb.delete('lonely', key) FROM aidb.scan('lonely')" if rand() < 0.4;
	return "SELECT aidb.put('lonely', '$key', '') WHERE NOT EXISTS (SELECT FROM aidb.scan('lonely'))";
}

my @changes = (\&change_pair, \&change_sides, \&change_lonely, \&change_space);

my $wrong = <<'SQL';
SELECT (SELECT count(*) FROM (SELECT FROM pair GROUP BY id HAVING sum(amount) < 0) p)
	+ (SELECT count(*) FROM heap_side h JOIN aidb_side a USING (id) WHERE h.amount + a.amount < 0)
	+ (SELECT greatest(count(*) - 1, 0) FROM lonely) + (SELECT greatest(count(*) - 1, 0) FROM aidb.scan('lonely'))
SQL

# ---- Sessions ------------------------------------------------------------------------------------------------

# Returns how often each SQLSTATE came; 'wrong' counts what a committed reader saw.
sub run_session {
	my ($deadline) = @_;
	my $session = AidbSession->connect($node) or die 'cannot connect';
	my %count;
	$session->run("SET aidb.fault_point = 'precommit_predicates_checked=pause'") if rand() < 0.5;
	while (time < $deadline) {
		my @statements = map { $changes[rand @changes]->() } 1 .. 1 + int rand 2;
		unshift @statements, 'SELECT pg_sleep(0.01)' if rand() < 0.5;
		my $state = $session->transaction(@statements) // die 'connection lost';
		$count{$state}++;
		next unless rand() < 0.2;
		$session->run('BEGIN READ ONLY');
		$state = $session->run($wrong);
		my $seen = $session->{output};
		$count{wrong}++ if $session->run('COMMIT') eq '00000' && $state eq '00000' && $seen != 0;
	}
	return %count;
}

my $deadline = time + $seconds;
my @pipes;
for (1 .. $sessions) {
	my $its_seed = int rand 2**31;
	my $pid = open(my $pipe, '-|') // die "fork: $!";
	if ($pid == 0) {
		srand $its_seed;
		my %count = eval { run_session($deadline) };
		$count{error} = 1 if $@;
		syswrite STDOUT, join ' ', %count;
		syswrite STDERR, $@ if $@;
		POSIX::_exit(0);
	}
	push @pipes, $pipe;
}
my %total;
for my $pipe (@pipes) {
	my %count = split / /, <$pipe> // 'error 1';
	$total{$_} += $count{$_} for keys %count;
}
note join ', ', map { "$_: $total{$_}" } sort keys %total;

cmp_ok(delete $total{'00000'} // 0, '>=', $least_commits, 'transactions committed');
cmp_ok(delete $total{'40001'} // 0, '>=', $least_refusals, 'transactions were told to try again');
is(delete $total{wrong} // 0, 0, 'no reader saw anything wrong');
is_deeply(\%total, {}, 'nothing else happened');
is($node->safe_psql('postgres', $wrong), '0', 'what must hold does');
done_testing();
