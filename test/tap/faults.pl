# A cluster whose every connection goes through a proxy that cuts, delays, stalls and half-closes them while rows are written and read,
# by SQL and by the client library: what was acknowledged is there, nothing is there that nobody wrote, no session sees time go
# back, and none hangs. The seed is printed; AIDB_TEST_SEED replays the faults, if not their moments.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use AidbProxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{AIDB_TEST_SEED} // time % 1000000;
my $rounds = $ENV{AIDB_FAULTS} // 40;
srand $seed;
note "AIDB_TEST_SEED=$seed";

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_, conf => $_ eq 'c' ? 'aidb.row_cache = 8MB' : '') } qw(a b c d);
my %proxy = map { $_ => AidbProxy->start($node{$_}) } sort keys %node;
my @running;

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

END {
	$_->kill_kill for @running;
}

ask("SELECT aidb.add_node('$_', '" . $proxy{$_}->conninfo . "')") for sort keys %node;
ask("SELECT aidb.add_group('one', 'a'); SELECT aidb.add_replica('one', 'b'); SELECT aidb.add_replica('one', 'c', 'cache'); SELECT aidb.add_group('two', 'd', false)");
$node{d}->safe_psql('postgres', 'SELECT aidb.become_primary()');
my $conninfo = $catalog->conninfo;
my $daemon = AidbDaemon->coordinator($catalog);
$catalog->wait_for("SELECT in_sync IN ('a', 'b') FROM aidb.groups WHERE name = 'one'", 't');
$catalog->wait_for("SELECT count(*) FROM aidb.nodes WHERE state = 'up'", '4');
ask(<<'SQL');
CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb_cluster;
CREATE FOREIGN TABLE counter (id int PRIMARY KEY, n int) SERVER aidb_cluster;
CREATE FOREIGN TABLE store (key bytea, value bytea, PRIMARY KEY (key)) SERVER aidb_cluster;
SET aidb.multi_group_writes = separately;
INSERT INTO counter SELECT i, 0 FROM generate_series(0, 7) i;
SQL

# ---- Load -----------------------------------------------------------------------------------------------------------

my $place = PostgreSQL::Test::Utils::tempdir();

# psql goes on after errors, until the statements are stopped.
sub start_session {
	my ($name, $settings, $statement) = @_;
	my $script = "\\set QUIET on\nSET aidb.node_timeout = '1s';\n$settings\n" . join '', map { $statement->($_) } 1 .. 200000;
	append_to_file("$place/$name.sql", $script);
	push @running, IPC::Run::start([ $catalog->installed_command('psql'), '-XAtq', '-d', $conninfo, '-f', "$place/$name.sql" ],
		'<', \undef, '>', "$place/$name.out", '2>', "$place/$name.err");
	return;
}

start_session("writer$_", '', do { my $of = $_; sub { 'INSERT INTO item VALUES (' . ($of * 1000000 + $_[0]) . ", 'v') RETURNING id;\n" } }) for 1, 2;
start_session('batches', "SET aidb.multi_group_writes = separately;",
	sub { my $first = 9000000 + 20 * $_[0]; "WITH i AS (INSERT INTO item SELECT $first + i, 'v' FROM generate_series(0, 19) i RETURNING id) SELECT string_agg(id::text, ' ') FROM i;\n" });
# A counter is written by one session, with growing numbers, and read by two others.
start_session('counting', '', sub { "UPDATE counter SET n = $_[0] WHERE id = " . $_[0] % 8 . " RETURNING n;\n" });
start_session("reading_$_", "SET aidb.read_from = '$_';", sub { 'SELECT id, n FROM counter WHERE id = ' . $_[0] % 8 . ";\n" }) for qw(primary cache);
my ($client_out, $client_err) = ('', '');
my $client = IPC::Run::start([ './client', $conninfo, 'store', 'timeout=8000', 'read_from=cache', 'load', 2, int($rounds / 4) + 2 ],
	'<', \undef, '>', \$client_out, '2>', \$client_err);

# ---- Faults -----------------------------------------------------------------------------------------------------------

my %faults;
for my $round (1 .. $rounds) {
	my $of = (sort keys %proxy)[ rand 4 ];
	my $fault = (qw(cut truncate half refuse stall delay))[ rand 6 ];
	$proxy{$of}->set($fault, 10 + int rand 60);
	$faults{$fault}++;
	sleep 0.05 + rand 0.25;
	$proxy{$of}->set('pass');
	sleep rand 0.1;
}
note join ', ', map { "$faults{$_} $_" } sort keys %faults;

# ---- What has become of it ----------------------------------------------------------------------------------------------

$client->finish;
like($client_out . $client_err, qr/^(?!0)\d+ rows acknowledged, \d+ batches failed$/, 'the client library has lost nothing');
# Each session answers once more, then they are stopped.
my $until = time + 30;
for my $name (qw(writer1 writer2 batches counting reading_primary reading_cache)) {
	my $before = -s "$place/$name.out" // 0;
	sleep 0.02 while time < $until && -s "$place/$name.out" == $before;
	cmp_ok(-s "$place/$name.out", '>', $before, "$name goes on");
}
for my $run (@running) {
	$run->signal('INT');
	$run->kill_kill(grace => 5);
}
@running = ();

my %acknowledged;
for my $name (qw(writer1 writer2 batches)) {
	my $out = slurp_file("$place/$name.out");
	$out =~ s/[^\n]*\z//; # the last line may be cut off
	$acknowledged{$_} = 1 for $out =~ /(\d+)/g;
}
my %there = map { $_ => 1 } split /\n/, ask("SET aidb.node_timeout = '20s'; SELECT id FROM item");
my @lost = grep { !$there{$_} } keys %acknowledged;
is(scalar @lost, 0, keys(%acknowledged) . ' acknowledged rows are there') or diag("lost: @lost[0 .. ($#lost < 9 ? $#lost : 9)]");
cmp_ok(scalar(keys %acknowledged), '>', 200, 'and were not too few');
is(ask("SELECT count(*) FROM item WHERE v <> 'v' OR NOT (id BETWEEN 1000001 AND 1200000 OR id BETWEEN 2000001 AND 2200000 OR id BETWEEN 9000020 AND 13000019)"), '0', 'none is there that nobody wrote');
is(ask('SELECT count(*) - count(DISTINCT id) FROM item'), '0', 'and none twice');
for my $from (qw(primary cache)) {
	my (%last, $back, $reads);
	for (split /\n/, slurp_file("$place/reading_$from.out")) {
		my ($id, $n) = /^(\d+)\|(\d+)$/ or next;
		$reads++;
		$back++ if $n < ($last{$id} // 0);
		$last{$id} = $n;
	}
	is($back // 0, 0, "$reads reads from the $from, none of which goes back");
}
done_testing();
