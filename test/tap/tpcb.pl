# TPC-B under contention, with the server killed at random moments: the transaction of pgbench's tpcb-like script,
# from eight clients, with accounts, tellers and branches in AiDb and the history in a heap table, the other way
# round, all in AiDb, and all in AiDb with half of the history in a heap table. Shown each round: the balances of
# accounts, tellers and branches and the history agree, row by row; of each client exactly the acknowledged
# transactions are there, and perhaps the one under way; with synchronous_commit = off its first so many, whole
# ones, and at least those up to its last synchronous one. Readers that sum all tables during the run never see them
# disagree, neither in one statement nor in one REPEATABLE READ transaction.
#
# pgbench numbers the transactions of each client and logs what was acknowledged. It tries again after 40001 and
# 40P01.
#
# Environment: AIDB_SEED; AIDB_TPCB_ROUNDS (4).
use strict;
use warnings;
use AidbJournal;
use AidbNode;
use AidbSession;
use IPC::Run;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $rounds = $ENV{AIDB_TPCB_ROUNDS} // 4;
my $clients = 8;
my %sizes = (branches => 4, tellers => 40, accounts => 400);
my $least_transactions = 20; # of a round
my $enough_s = 4; # of a round with so many
my $rest_s = 0.002; # of readers, so that they do not take the whole machine

# Where the balances are, and where the history; each is a schema.
my %layouts = (
	history_in_heap => [ 'aidb', 'heap' ],
	history_in_aidb => [ 'heap', 'aidb' ],
	history_in_both => [ 'aidb', 'aidb', 'heap' ],
	all_in_aidb => [ 'aidb', 'aidb' ]);
my @layouts = sort keys %layouts;
my @levels = ('read committed', 'repeatable read', 'serializable');

# How often a transaction is tried; 0 is without a limit, with 1 no conflict may be reported.
my %tries = ('read committed' => 1, 'repeatable read' => 0, 'serializable' => 0);

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $findings_file = "$folder/findings";
my $checks_file = "$folder/checks";

my $node = AidbNode->launch('main', memory => '16MB', conf => <<'CONF');
shared_buffers = 4MB
log_statement = none
log_min_messages = log
log_min_error_statement = panic
CONF

sub count_lines { return scalar(my @lines = lines_of($_[0])) }

# ---- Tables ------------------------------------------------------------------------------------------------------

sub create_table {
	my ($engine, $name, $columns) = @_;
	return $engine eq 'heap' ? "CREATE TABLE $name ($columns);" : "CREATE FOREIGN TABLE $name ($columns) SERVER aidb;";
}

# Which transactions are synchronous: those of these engines of the history. With two engines also those of one only.
sub choices_of {
	my ($layout) = @_;
	my (undef, @histories) = @{ $layouts{$layout} };
	return ([], [@histories], @histories > 1 ? map { [$_] } @histories : ());
}

# The tables of the history are called by their engines, and the history is a view of them.
sub create_layout {
	my ($layout) = @_;
	my ($balances, @histories) = @{ $layouts{$layout} };
	my $history = 'round int, client int, number int, tid int, bid int, aid int, delta int, mtime timestamp,'
		. ' filler char(22), PRIMARY KEY (round, client, number)';
	$node->safe_psql('postgres', join "\n", "CREATE SCHEMA $layout; SET search_path = $layout;",
		create_table($balances, 'branches', 'bid int PRIMARY KEY, bbalance int, filler char(88)'),
		create_table($balances, 'tellers', 'tid int PRIMARY KEY, bid int, tbalance int, filler char(84)'),
		create_table($balances, 'accounts', 'aid int PRIMARY KEY, bid int, abalance int, filler char(84)'),
		(map { create_table($_, "history_$_", $history) } @histories),
		'CREATE VIEW history AS ' . join(' UNION ALL ', map { "SELECT * FROM history_$_" } @histories) . ';', <<"SQL");
INSERT INTO branches SELECT i, 0 FROM generate_series(1, $sizes{branches}) i;
INSERT INTO tellers SELECT i, 1 + (i - 1) % $sizes{branches}, 0 FROM generate_series(1, $sizes{tellers}) i;
INSERT INTO accounts SELECT i, 1 + (i - 1) % $sizes{branches}, 0 FROM generate_series(1, $sizes{accounts}) i;
SQL
	return;
}

# pgbench's tpcb-like with a number in the history, of which :done is the last one that was acknowledged.
sub write_script {
	my ($file, $history, $begin) = @_;
	append($file, <<"SCRIPT");
\\set aid random(1, $sizes{accounts})
\\set bid random(1, $sizes{branches})
\\set tid random(1, $sizes{tellers})
\\set delta random(-5000, 5000)
\\set number :done + 1
$begin;
UPDATE accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM accounts WHERE aid = :aid;
UPDATE tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO $history (round, client, number, tid, bid, aid, delta, mtime)
	VALUES (:round, :client_id, :number, :tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
\\set done :number
SCRIPT
	return;
}

sub script_of { return "$folder/script_" . join '_', @_ }

for my $engine (qw(aidb heap)) {
	write_script(script_of($engine, 'on'), "history_$engine", 'BEGIN');
	write_script(script_of($engine, 'off'), "history_$engine", 'BEGIN; SET LOCAL synchronous_commit = off');
}

my @sums = (
	'SELECT sum(abalance) FROM accounts',
	'SELECT sum(tbalance) FROM tellers',
	'SELECT sum(bbalance) FROM branches',
	'SELECT coalesce(sum(delta), 0) FROM history');

# What does not agree: nothing when all does.
my $balance = <<'SQL';
SELECT 'account ' || aid FROM accounts LEFT JOIN (SELECT aid, sum(delta) FROM history GROUP BY 1) h USING (aid)
	WHERE abalance <> coalesce(sum, 0)
UNION ALL SELECT 'teller ' || tid FROM tellers LEFT JOIN (SELECT tid, sum(delta) FROM history GROUP BY 1) h USING (tid)
	WHERE tbalance <> coalesce(sum, 0)
UNION ALL SELECT 'branch ' || bid FROM branches LEFT JOIN (SELECT bid, sum(delta) FROM history GROUP BY 1) h USING (bid)
	WHERE bbalance <> coalesce(sum, 0)
SQL
chomp $balance;

# ---- Readers, which end when the connection is lost --------------------------------------------------------------

sub note_sums {
	my ($by, @found) = @_;
	my %different = map { $_ => 1 } @found;
	append($findings_file, "sums seen by one $by: @found") if keys %different != 1;
	append($checks_file, $by);
	sleep $rest_s;
	return;
}

sub read_statements {
	my ($session) = @_;
	my $sql = 'SELECT ' . join ', ', map { "($_)" } @sums;
	for (;;) {
		my ($row) = $session->rows($sql);
		note_sums('statement', split /\|/, $row);
	}
}

sub read_transactions {
	my ($session) = @_;
	for (;;) {
		$session->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
		my @found = map { ($session->rows($_))[0] } shuffle @sums;
		$session->rows('COMMIT');
		note_sums('transaction', @found);
	}
}

sub in_background {
	my ($code, $layout) = @_;
	my $its_seed = int rand 2**31;
	my $pid = fork // die "fork: $!";
	return $pid if $pid != 0;
	srand $its_seed;
	my $done = eval {
		my $session = AidbSession->connect($node);
		if ($session) {
			$session->rows("SET search_path = $layout");
			$code->($session);
		}
		1;
	};
	append($findings_file, "error: $@") if !$done && $@ !~ /connection lost/;
	POSIX::_exit(0);
}

# ---- pgbench -----------------------------------------------------------------------------------------------------

my ($pgbench, @readers);

END {
	my $status = $?;
	kill 'KILL', @readers if @readers;
	$pgbench->kill_kill if $pgbench;
	$? = $status;
}

sub start_pgbench {
	my ($round, $layout, $level, $synchronous, $errors) = @_;
	my (undef, @histories) = @{ $layouts{$layout} };
	local $ENV{PGAPPNAME} = 'pgbench';
	local $ENV{PGOPTIONS} = "-c search_path=$layout -c default_transaction_isolation=" . $level =~ s/ /\\ /r;
	my %synchronous = map { $_ => 1 } @$synchronous;
	my @scripts = map { script_of($_, $synchronous{$_} ? 'on' : 'off') } @histories;
	return IPC::Run::start [
		$node->installed_command('pgbench'), '--no-vacuum', "--client=$clients", '--time=600',
		"--max-tries=$tries{$level}", '--random-seed=' . int rand 2**31, '--log', "--log-prefix=$folder/log_$round",
		'-D', "round=$round", '-D', 'done=0', (map { ('-f', $_) } @scripts), $node->connstr('postgres') ],
		'<', \undef, '>', \my $output, '2>', $errors;
}

# Waits for a random number of transactions, or some time for less, and until the readers have looked.
sub wait_for_work {
	my ($round, $layout) = @_;
	my $session = AidbSession->connect_until($node);
	my ($begin, $checks) = (time, count_lines($checks_file));
	my $wanted = $least_transactions + int rand 400;
	my ($there, $waited_s);
	do {
		sleep rand 0.05;
		($there) = $session->rows("SELECT count(*) FROM $layout.history WHERE round = $round");
		$waited_s = time - $begin;
	} until ($there >= ($waited_s < $enough_s ? $wanted : $least_transactions)
			&& count_lines($checks_file) >= $checks + 4)
		|| $waited_s > $PostgreSQL::Test::Utils::timeout_default;
	cmp_ok($there, '>=', $least_transactions, "round $round: enough transactions");
	return;
}

sub kill_something {
	if (rand() < 0.5) {
		$node->crash;
		$node->start;
		return 'all processes';
	}
	my @pids = split /\n/, $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'");
	$node->crash_backend($pids[rand @pids]);
	return 'a backend';
}

# What pgbench logged: how many transactions failed for good; of each client how many were acknowledged; and how many
# were when the last synchronous one was.
sub read_log {
	my ($round, $layout, $synchronous) = @_;
	my (undef, @histories) = @{ $layouts{$layout} };
	my ($failed, @acknowledged, @durable) = (0);
	@acknowledged = @durable = (0) x $clients;
	for my $line (map { lines_of($_) } glob "$folder/log_$round.*") {
		my ($client, undef, $time, $script) = split / /, $line;
		if ($time !~ /^\d+$/) {
			$failed++;
			next;
		}
		$acknowledged[$client]++;
		$durable[$client] = $acknowledged[$client] if grep { $_ eq $histories[$script] } @$synchronous;
	}
	return ($failed, \@acknowledged, \@durable);
}

# ---- What must be found ------------------------------------------------------------------------------------------

sub check_clients {
	my ($session, $round, $acknowledged, $durable) = @_;
	my %found = map { my ($client, @rest) = split /\|/; $client => \@rest } $session->rows(
		"SELECT client, count(*), max(number) FROM history WHERE round = $round GROUP BY 1");
	my @wrong;
	for my $client (0 .. $clients - 1) {
		my ($count, $last) = @{ $found{$client} // [ 0, 0 ] };
		push @wrong, "client $client has $count transactions, of which the last is $last" if $count != $last;
		push @wrong, "client $client has $count transactions, was told of $acknowledged->[$client], and that the first "
			. "$durable->[$client] are durable" if $count > $acknowledged->[$client] + 1 || $count < $durable->[$client];
	}
	return @wrong;
}

sub check {
	my ($round, $layout, $acknowledged, $durable) = @_;
	my $session = AidbSession->connect_until($node);
	$session->rows("SET search_path = $layout");
	return ($session->rows($balance), check_clients($session, $round, $acknowledged, $durable),
		lines_of($findings_file));
}

sub play_round {
	my ($round, $layout, $level, $synchronous) = @_;
	my $errors = '';
	$pgbench = start_pgbench($round, $layout, $level, $synchronous, \$errors);
	@readers = map { in_background($_, $layout) } \&read_statements, \&read_transactions;
	wait_for_work($round, $layout);
	my $victim = kill_something();
	eval { $pgbench->finish }; # its status says that the connections were lost
	undef $pgbench;
	waitpid $_, 0 for @readers;
	@readers = ();

	my ($failed, $acknowledged, $durable) = read_log($round, $layout, $synchronous);
	my @wrong = check($round, $layout, $acknowledged, $durable);
	push @wrong, "$failed transactions failed for good" if $failed;
	push @wrong, grep { /ERROR:/ } split /\n/, $errors;
	my $sum = List::Util::sum(@$acknowledged);
	my $which = join(' and ', @$synchronous) || 'none';
	is(join("\n", @wrong), '', "round $round: $layout, $level, synchronous: $which, killed $victim after "
		. "$sum transactions: all agrees");
	return;
}

create_layout($_) for @layouts;
my %ways;
for my $layout (@layouts) {
	$ways{$layout} = [ shuffle map { my $level = $_; map { [ $level, $_ ] } choices_of($layout) } @levels ];
}
for my $round (1 .. $rounds) {
	my $layout = $layouts[$round % @layouts];
	my $ways = $ways{$layout};
	play_round($round, $layout, @{ $ways->[ int($round / @layouts) % @$ways ] });
}
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
note count_lines($checks_file) . ' sums were compared by readers';
done_testing();
