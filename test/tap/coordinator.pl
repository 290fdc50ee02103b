# A coordinator with a group of three servers: it has the standbys copied and one of them in sync, replaces a primary that dies
# under load within ten seconds and without losing a row, takes the old one back, lets the primary go on alone when its
# standby is lost, and changes places when it is told to.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my %node = map { $_ => AidbNode->launch($_, fsync => 'on') } qw(a b c);
my $catalog = AidbNode->launch('catalog');
my $daemon;

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

# ---- The program --------------------------------------------------------------------------------------------------

my ($output, $error) = ('', '');
ok(IPC::Run::run([ './aidb_coordinator', '--help' ], '>', \$output), 'it explains itself');
like($output, qr/--conninfo=CONNINFO.*aidb\.add_group/s, 'with what to do first');
ok(!IPC::Run::run([ './aidb_coordinator' ], '2>', \$error), 'it needs a catalog');
like($error, qr/give --conninfo/, 'and says so');
IPC::Run::run([ './aidb_coordinator', '--conninfo=x', '--retries=many' ], '2>', \$error);
like($error, qr/--retries=many: give a number from 1 to 100/, 'a number is a number');

# ---- The administrator's ---------------------------------------------------------------------------------------------

# aidb-admin with these words: its exit status, and what it printed on both.
sub admin {
	my (@words) = @_;
	local $ENV{AIDB_CLUSTER} = $catalog->conninfo;
	my ($out, $err) = ('', '');
	IPC::Run::run([ './aidb-admin', @words ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}

is(join('|', admin('--help')) =~ s/\s+/ /gr =~ /^0\|aidb-admin shows.*replica add GROUP NODE/ ? 'yes' : 'no', 'yes', 'aidb-admin explains itself');
is_deeply([ admin('dance') ], [ 2, '', "aidb-admin: no such command, or not with so many words\nTry aidb-admin --help.\n" ], 'and what it does not know');
is((admin('--conninfo=host=/nowhere', 'status'))[0], 1, 'it says that it cannot connect');
like((admin('--conninfo=host=/nowhere', 'status'))[2], qr/cannot connect to the cluster's catalog.*Check --conninfo/s, 'and what to check');
is((admin('node', 'list'))[1], "(none)\n", 'no node yet');

# ---- A server of its own for the catalog ----------------------------------------------------------------------------

{
	my $place = PostgreSQL::Test::Utils::tempdir_short();
	my $bindir = '--bindir=' . $catalog->config_data('--bindir');
	my $port = '--port=' . PostgreSQL::Test::Cluster::get_free_port();
	my $here = "host=$place/here " . ($port =~ s/--//r) . ' dbname=postgres';

	# Started in the background, it keeps no pipe of this test's open.
	sub run_cluster {
		my (@words) = @_;
		system("./aidb-admin cluster @words >$place/output 2>&1 </dev/null");
		return ($? >> 8) . '|' . slurp_file("$place/output");
	}
	is(run_cluster('init', "$place/here", $port, $bindir), "0|the coordinator's server is in $place/here\nNext: aidb-admin cluster start $place/here\n", 'a server is made');
	like(run_cluster('start', "$place/here", $bindir), qr/^0\|the coordinator runs.*\nSQL over the cluster is served at: \Q$here\E\nNext: /, 'and started');
	is((admin("--conninfo=$here", 'cluster', 'status'))[1], "Groups\n(none)\n\nNodes\n(none)\n", 'with the catalog of a cluster');
	is((admin("--conninfo=$here", 'node', 'add', 'a', 'host=nowhere'))[0], 0, 'which takes a node');
	is(run_cluster('start', "$place/here"), "0|the coordinator of $place/here runs already\n", 'once');
	like(`./aidb_coordinator --data=$place/here 2>&1`, qr/another coordinator works in "\Q$place\E\/here"/, 'whoever starts it');
	is(run_cluster('stop', "$place/here"), "0|the coordinator and its server have stopped\n", 'it stops');
	is(run_cluster('stop', "$place/here"), "0|no coordinator runs in $place/here\n", 'once');
	like(run_cluster('start', "$place/here", $bindir), qr/^0\|the coordinator runs/, 'and starts again');
	like((admin("--conninfo=$here", 'node', 'list'))[1], qr/^a +- +- +\w+ .*host=nowhere/m, 'with what it knew');
	is(run_cluster('stop', "$place/here"), "0|the coordinator and its server have stopped\n", 'to its end');
	like(run_cluster('init', $place), qr/^1\|.*has files, and no server/, 'a directory with other files is not taken');
	like(run_cluster('init', "$place/" . 'x' x 100), qr/^1\|.*of at most \d+ bytes/, 'nor one whose name is too long');
	like(run_cluster('init', "$place/there", '--bindir=/nowhere'), qr/^1\|.*cannot make the server.*No such file/s, 'without PostgreSQL there is none');
	is(run_cluster('dance', $place), "2|aidb-admin: cluster can init, start, stop or status\nTry aidb-admin --help.\n", 'what can be done');
}

# ---- A group ------------------------------------------------------------------------------------------------------

is_deeply([ admin('node', 'add', $_, $node{$_}->conninfo) ], [ 0, "the node is known\n", '' ], "node $_") for qw(a b c);
like((admin('node', 'add', 'Q!', 'x'))[2], qr/violates check constraint/, 'a name is a name');
like(error_of($catalog, "SELECT aidb.add_group('one', 'nobody')"), qr/42704.*no node "nobody".*aidb.add_node/s, 'a group has a node');
is((admin('group', 'add', 'one', 'a'))[0], 0, 'a group');
is((admin('replica', 'add', 'one', $_))[0], 0, "and replica $_") for qw(b c);
is((admin('replica', 'add', 'two', 'b'))[2], "aidb-admin: there is no group \"two\"\nSee aidb.groups, and aidb.add_group().\n", 'a group that is none');
like(error_of($catalog, "SELECT aidb.remove_node('b')"), qr/55006.*is in a group/s, 'a member is not removed');
like(error_of($catalog, "SELECT aidb.failover('one')"), qr/55000.*no standby of group "one" is in sync/s, 'no failover to nobody');
like((admin('slots'))[1], qr/^group  slots  share    which\none      256  100\.0 %  0-255\n/, 'it keeps all slots');
$daemon = AidbDaemon->coordinator($catalog, 'first');
my $in_sync = "SELECT \"primary\", in_sync IS NOT NULL FROM aidb.groups";
$catalog->wait_for($in_sync, 'a|t');
pass('the standbys are copied, and one is in sync');
like((admin('status'))[1], qr/^Groups\nname  epoch  primary  in_sync  other_standbys  caches\none       1  a        [bc]        [bc]               -\n\nNodes\n.*^a     one    primary          up/ms, 'the status says so');
like((admin('group', 'list', '--json'))[1], qr/^\[\n  \{"name": "one", "epoch": 1, "primary": "a", "in_sync": "[bc]", "other_standbys": "[bc]", "caches": "-"\}\n\]\n$/, 'also for programs');
$node{a}->safe_psql('postgres', 'CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb');
like(error_of($node{a}, 'BEGIN; CREATE TEMP TABLE t (); INSERT INTO item VALUES (1); COMMIT'), qr/0A000.*something else/s, 'commits wait for it');

# ---- A primary that dies under load ---------------------------------------------------------------------------------

my %acknowledged;
my $next = 1;

sub start_load {
	my ($server) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir() . "/load.$next";
	append_to_file($script, join '', map { "INSERT INTO item VALUES ($_, 'load') RETURNING id;\n" } $next .. $next + 9999);
	$next += 10000;
	my $run = IPC::Run::start([ $server->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr('postgres'), '-f', $script ],
		'<', \undef, '>', "$script.out", '2>', '/dev/null');
	return [ $run, "$script.out" ];
}

sub lost_rows {
	my ($server) = @_;
	my %there = map { $_ => 1 } split /\n/, $server->safe_psql('postgres', 'SELECT id FROM item');
	return scalar grep { !$there{$_} } keys %acknowledged;
}

for my $round (1 .. 3) {
	my ($primary, $standby) = split /\|/, ask('SELECT "primary", in_sync FROM aidb.groups');
	my $load = start_load($node{$primary});
	sleep 0.05 until -s $load->[1];
	$node{$primary}->crash;
	my $took = $catalog->wait_for("SELECT \"primary\" FROM aidb.groups", $standby);
	my $epoch = $round + 1;
	$took += $catalog->wait_for("SELECT count(*) FROM aidb.events WHERE message = 'group one: node $standby is the primary, in epoch $epoch'", '1');
	cmp_ok($took, '<', 10, sprintf 'round %d: node %s took over from %s after %.1f s', $round, $standby, $primary, $took);
	eval { $load->[0]->finish };
	$acknowledged{$_} = 1 for slurp_file($load->[1]) =~ /^(\d+)$/mg;
	is(lost_rows($node{$standby}), 0, 'with all ' . keys(%acknowledged) . ' acknowledged rows');
	$node{$standby}->safe_psql('postgres', "INSERT INTO item VALUES (-$round, 'after')");
	$node{$primary}->start;
	$catalog->wait_for($in_sync, "$standby|t");
	$catalog->wait_for("SELECT count(*) FROM aidb.nodes WHERE state = 'up' AND role LIKE '%standby'", '2');
}

# ---- A caching read node -------------------------------------------------------------------------------------------------

# It follows whoever is the primary.
$node{d} = AidbNode->launch('d', conf => 'aidb.row_cache = 8MB');
admin('node', 'add', 'd', $node{d}->conninfo);
is((admin('replica', 'add', 'one', 'd', 'dance'))[0], 1, 'a role is a role');
is((admin('replica', 'add', 'one', 'd', 'cache'))[0], 0, 'a caching read node');
$node{d}->poll_query_until('postgres', "SELECT role = 'cache' AND state = 'streaming' FROM aidb.node_status()") or die 'no cache';
is($node{d}->safe_psql('postgres', 'SELECT v FROM item WHERE id = -1'), 'after', 'remembers rows');
like(error_of($catalog, "SELECT aidb.failover('one', 'd', true)"), qr/55000.*is a caching read node/s, 'and is never the primary');
my ($before) = split /\|/, ask('SELECT "primary", in_sync FROM aidb.groups');
ask("SELECT aidb.failover('one')");
$catalog->wait_for("SELECT \"primary\" <> '$before' AND in_sync IS NOT NULL FROM aidb.groups", 't');
my ($after) = split /\|/, ask('SELECT "primary", in_sync FROM aidb.groups');
$node{$after}->safe_psql('postgres', "UPDATE item SET v = 'changed' WHERE id = -1");
$node{d}->poll_query_until('postgres', "SELECT state = 'streaming' AND upstream LIKE '%" . $node{$after}->port . "' FROM aidb.node_status()") or die 'it does not follow';
is($node{d}->safe_psql('postgres', 'SELECT v FROM item WHERE id = -1'), 'changed', 'it follows a new primary');

# ---- Another coordinator ----------------------------------------------------------------------------------------------

my $first = $daemon;
$daemon = AidbDaemon->coordinator($catalog, 'second');
is(ask('SELECT holder FROM aidb.coordinator'), 'first', 'one of two acts');
$first->kill;
$catalog->wait_for('SELECT holder FROM aidb.coordinator', 'second');
pass('and the other when that is gone');

# ---- A standby that dies ------------------------------------------------------------------------------------------------

my ($primary, $standby) = split /\|/, ask('SELECT "primary", in_sync FROM aidb.groups');
$node{$standby}->crash;
$catalog->wait_for("SELECT in_sync IS DISTINCT FROM '$standby' FROM aidb.groups", 't');
is($node{$primary}->safe_psql('postgres', "INSERT INTO item VALUES (-100, 'without') RETURNING id"), '-100', 'the primary goes on without its standby');
$catalog->wait_for($in_sync, "$primary|t");
pass('and the other one is in sync');
$node{$standby}->start;

# ---- Changing places --------------------------------------------------------------------------------------------------

my $before = ask('SELECT in_sync FROM aidb.groups');
is((admin('failover', 'one'))[0], 0, 'an operator asks for it');
$catalog->wait_for($in_sync, "$before|t");
is(lost_rows($node{$before}), 0, 'an operator has changed the primary, and nothing is lost');
is($node{$before}->safe_psql('postgres', 'SELECT count(*) FROM item WHERE id < 0'), '4', 'nor what came between');
like(ask('SELECT string_agg(message, E\'\n\') FROM aidb.events'), qr/group one: node \w is in sync.*was sealed with epoch 2.*is the primary, in epoch 2/s,
	'events tell the story');
like((admin('events'))[1], qr/^at +severity  message\n.*info      group one: node a is the primary, in epoch 1/s, 'also by aidb-admin');
ok($daemon->stop, 'it stops when it is asked to');

done_testing();
