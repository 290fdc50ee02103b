# The same statements of several sessions, in the same order, on heap tables and on AiDb tables: each session gets the
# same rows, row counts, notices and errors, and waits for the same others. docs/testing.md says how to go on from a
# divergence.
#
# Environment: AIDB_TEST_SEED, AIDB_DIFFERENTIAL_SCRIPTS and AIDB_DIFFERENTIAL_ORDERS for a longer run with other numbers;
# AIDB_DIFFERENTIAL_OPTIONS for further options of the program.
use strict;
use warnings;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{AIDB_TEST_SEED} // 1;
my $scripts = $ENV{AIDB_DIFFERENTIAL_SCRIPTS} // 300;
my $orders = $ENV{AIDB_DIFFERENTIAL_ORDERS} // 6;
my $home = "$ENV{TESTDIR}/differential";

# Nothing runs in between that takes locks of its own.
my $node = AidbNode->launch('main', memory => '64MB', conf => "autovacuum = off\nmax_connections = 30");
my @program = ("$home/differential", '--connect', $node->connstr('postgres'), '--seed', $seed, '--known', "$home/known.txt",
	'--grammar', "$home/grammar.txt", split ' ', $ENV{AIDB_DIFFERENTIAL_OPTIONS} // '');

# Returns exit status and output.
sub compare {
	my @arguments = @_;
	my $output = '';
	my $finished = IPC::Run::run([@program, @arguments], '<', \undef, '>&', \$output);
	return ($? >> 8, $output);
}

sub agree {
	my ($name, @arguments) = @_;
	my ($status, $output) = compare(@arguments);
	note($output);
	is($status, 0, $name) or diag($output);
	return;
}

# The harness itself: equal worlds go the same way, and a world that isolates otherwise is found out.
agree('heap tables do as heap tables', '--worlds', 'heap,heap', '--generate', 50);
my ($status, $output) = compare('--worlds', 'heap,heap', '--generate', 50, '--reports', 1, '--right-set',
	'-c default_transaction_isolation=repeatable\\ read');
is($status, 1, 'another isolation level is found out');
like($output, qr/^order .*^# --- heap_1.*^# --- heap_2/ms, 'with a script that shows it');

agree('statements written by hand', '--orders', $orders, sort glob "$home/corpus/*.txt");
agree('statements drawn at random', '--generate', $scripts);
done_testing();
