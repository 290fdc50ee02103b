# Runs random transactions that append to lists and read them, and shows that nothing happened that their isolation
# level forbids; test/history/README.md says how. Lists lie in AiDb, in AiDb while most transactions write a heap
# table or advance a sequence too, and half in AiDb and half in heap, where one snapshot has to fit both.
#
# That the checker finds anything is shown by test/unit/test_checker.c, and here by its finding in a history of each
# level what only the next one forbids; that it finds no more than there is, by a history of heap tables in
# SERIALIZABLE.
#
# Environment: AIDB_SEED; AIDB_HISTORY_SECONDS, of each run (1, twice that where two kinds of tables meet);
# AIDB_HISTORY_RUNS, of each combination (1); AIDB_HISTORY_TRANSACTIONS, the most of a run; AIDB_HISTORY_CRASHES, in
# each run (0). Every other run, by chance, appends by ON CONFLICT.
# chance, appends by ON CONFLICT); AIDB_HISTORY_FOLDER keeps all histories there.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{AIDB_HISTORY_SECONDS} // 1;
my $runs = $ENV{AIDB_HISTORY_RUNS} // 1;
my $transactions = $ENV{AIDB_HISTORY_TRANSACTIONS} // 1_000_000;
my $crashes = $ENV{AIDB_HISTORY_CRASHES} // 0;
my $folder = $ENV{AIDB_HISTORY_FOLDER} // $PostgreSQL::Test::Utils::tmp_check;
my @levels = ('RC', 'RR', 'SER');
my %share = (heap => 1, aidb => 1, mixed => 2, split => 2); # of the time
# Whether 40001 may be reported.
my %conflicts = (RC => 0, RR => 1, SER => 1);
my $least_committed = 300;

my $seed = $ENV{AIDB_SEED} // int(time) ^ $$;
srand $seed;
note "AIDB_SEED=$seed";

my $node = AidbNode->launch('main', conf => <<'CONF');
log_statement = none
log_min_messages = fatal
deadlock_timeout = 20ms
max_connections = 100
CONF
my $connection = $node->connstr('postgres');

# Runs the program; its exit status and what it printed. Meanwhile the server crashes, when it is to.
sub run_history {
	my ($crashes_now, @arguments) = @_;
	my $handle = IPC::Run::start [ './history', @arguments ], '<', \undef, '>', \my $output, '2>&1';
	for (1 .. $crashes_now) {
		AidbSession->connect_until($node);
		sleep rand(0.8 * $seconds / $crashes_now);
		$node->crash;
		$node->start;
	}
	$handle->finish;
	return ($handle->result(0), $output);
}

sub last_line_of { return (split /\n/, $_[0])[-1] // '' }

# One run, which must find nothing. The history's file.
sub check_run {
	my ($mode, $level, $upsert, $number) = @_;
	my $name = join '_', 'history', $mode, $level, $upsert ? 'upsert' : (), $number;
	my ($status, $output) = run_history($crashes, $connection, "mode=$mode", "level=$level", "upsert=$upsert",
		"conflicts=$conflicts{$level}", 'seconds=' . $seconds * $share{$mode}, "least=$least_committed",
		"transactions=$transactions", 'seed=' . int(rand 2**31), "write=$folder/$name");
	my $summary = last_line_of($output);
	is($status, 0, "$mode" . ($upsert ? ' upsert' : '') . ", $summary") or diag($output);
	note join '; ', $output =~ /^SQLSTATE (.*)/mg;
	return "$folder/$name";
}

# What a history of one level holds that the next one forbids.
sub check_stricter {
	my ($file, $level, $anomaly) = @_;
	my ($status, $output) = run_history(0, '--check', $file, $level);
	is($status, 1, "the same taken for $level is reported");
	like(last_line_of($output), qr/found:.* $anomaly \d/, "with $anomaly");
	return;
}

for my $number (1 .. $runs) {
	check_run('heap', 'SER', 1, $number);
	for my $mode (qw(aidb mixed split)) {
		my %file = map { $_ => check_run($mode, $_, int rand 2, $number) } @levels;
		next if $mode ne 'aidb';
		check_stricter($file{RC}, 'RR', 'G-single');
		check_stricter($file{RR}, 'SER', 'G2');
	}
}
done_testing();
