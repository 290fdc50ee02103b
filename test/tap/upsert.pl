# Eight sessions count on the same few rows by INSERT ... ON CONFLICT DO UPDATE, while the rows are also deleted and made
# anew. Nothing that was acknowledged may be lost or counted twice, and under READ COMMITTED nobody is told to try again:
# an upsert waits for who writes its key, and goes by the row as it is then.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 8;
my $transactions = 250; # of each session
my $keys = 5;
my $places = 300; # each is given away once

my $seed = $ENV{AIDB_SEED} // time ^ $$;
note "AIDB_SEED=$seed";

my $node = AidbNode->launch('main', conf => "log_statement = none\nlog_min_error_statement = panic");
$node->safe_psql('postgres', <<'SQL');
CREATE FOREIGN TABLE counter (id int PRIMARY KEY, n int NOT NULL) SERVER aidb;
CREATE TABLE part (id int, n int NOT NULL) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE part_1 (n int NOT NULL, id int PRIMARY KEY) SERVER aidb;
CREATE TABLE part_2 (id int PRIMARY KEY, n int NOT NULL);
ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (1) TO (4);
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (4) TO (100);
CREATE TABLE note (n int);
CREATE FOREIGN TABLE place (id int PRIMARY KEY, session int) SERVER aidb;
SQL

# ---- Transactions: statements, and what they add, by name. A statement may also print "name|number" ---------------

sub add {
	my ($table, %added) = @_;
	my $values = join ', ', map { "($_, $added{$_})" } sort keys %added; # in order, so that there is no deadlock
	# some work, so that others come in between the look at the row and its change
	my $work = "(SELECT 0 * count(*) FROM generate_series(1, 3000) g WHERE g > $table.n)";
	return "INSERT INTO $table VALUES $values ON CONFLICT (id) DO UPDATE SET n = $table.n + EXCLUDED.n + $work";
}

sub add_one {
	my ($table, $key) = @_;
	return ({ "$table $key" => 1 }, add($table, $key => 1));
}

sub add_to_several {
	my ($table) = @_;
	my %added = map { 1 + int rand $keys => 1 + int rand 3 } 1 .. 3;
	return ({ map { ("$table $_" => $added{$_}) } keys %added }, add($table, %added));
}

# with a heap table, so that PostgreSQL's own log decides
sub add_and_note {
	my ($table, $key) = @_;
	return ({ "$table $key" => 5, note => 1 }, add($table, $key => 2), 'INSERT INTO note VALUES (1)', add($table, $key => 3));
}

sub add_and_roll_back {
	my ($table, $key) = @_;
	return (
		{ "$table $key" => 7 },
		add($table, $key => 3), 'SAVEPOINT one', add($table, $key => 100), 'ROLLBACK TO one', add($table, $key => 4));
}

sub take_away {
	my ($table, $key) = @_;
	return ({}, "DELETE FROM $table WHERE id = $key RETURNING '$table $key', -n");
}

sub take_place {
	my ($table, $key, $session) = @_;
	my $place = 1 + int rand $places;
	return ({}, "INSERT INTO place VALUES ($place, $session) ON CONFLICT (id) DO NOTHING RETURNING 'place', 1");
}

my @kinds = (\&add_one, \&add_one, \&add_one, \&add_to_several, \&add_and_note, \&add_and_roll_back, \&take_away, \&take_place);

# ---- Sessions, a process each -----------------------------------------------------------------------------------

sub file_of { return "$PostgreSQL::Test::Utils::tmp_check/session$_[0]" }

sub run_session {
	my ($session, $out) = @_;
	my $connection = AidbSession->connect($node) or die 'no connection';
	for (1 .. $transactions) {
		my $table = rand() < 0.5 ? 'counter' : 'part';
		my ($added, @statements) = $kinds[rand @kinds]->($table, 1 + int(rand $keys), $session);
		my $state = $connection->transaction(@statements) // die 'connection lost';
		if ($state ne '00000') {
			print $out "error $state|1\n";
			next;
		}
		print $out "$_|$added->{$_}\n" for keys %$added;
		print $out $connection->{output};
	}
	print $out "done|1\n";
	return;
}

sub start_session {
	my ($session) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid != 0;
	srand $seed + $session;
	open my $out, '>', file_of($session) or die "open: $!";
	eval { run_session($session, $out); 1 } or print $out "error $@|1\n";
	close $out;
	POSIX::_exit(0);
}

my @processes = map { start_session($_) } 1 .. $sessions;
waitpid $_, 0 for @processes;

my %sum;
for my $session (1 .. $sessions) {
	for my $line (split /\n/, slurp_file(file_of($session))) {
		my ($name, $number) = split /\|/, $line;
		$sum{$name} += $number;
	}
}

# ---- What must be found -----------------------------------------------------------------------------------------

is(join(' ', grep { /^error/ } sort keys %sum), '', 'no transaction failed');
is($sum{done}, $sessions, 'all sessions came to their end');
for my $table ('counter', 'part') {
	for my $key (1 .. $keys) {
		my $n = $node->safe_psql('postgres', "SELECT coalesce(sum(n), 0) FROM $table WHERE id = $key");
		is($n, $sum{"$table $key"} // 0, "$table $key is the sum of what was acknowledged");
	}
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM note'), $sum{note}, 'as many notes as were acknowledged');
is($node->safe_psql('postgres', 'SELECT count(*) FROM place'), $sum{place}, 'each place was given away once');
done_testing();
