# A transaction id under which AiDb rows were prepared is not given out again when the server dies before PostgreSQL has
# logged anything of that transaction: its rows would become those of a stranger. And PostgreSQL goes on from the ids that
# were reserved for that without missing a page of what it keeps by transaction id, after a crash and in a promoted standby.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Cluster;
use Test::More;

my $ids_per_log_page = 32768; # of the commit log

my $node = AidbNode->create('main', memory => '16MB', conf => <<'CONF');
wal_level = replica
max_wal_senders = 4
track_commit_timestamp = on
autovacuum = off
CONF
$node->append_conf('pg_hba.conf', "local replication all trust\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION aidb;
CREATE FOREIGN TABLE item (k text PRIMARY KEY) SERVER aidb;
CREATE TABLE heap (k text);
SQL

# Commits with and without subtransactions, so that each log of transactions is written to.
my $use = <<'SQL';
BEGIN\; INSERT INTO heap VALUES ('outer')\; SAVEPOINT s\; INSERT INTO heap VALUES ('inner')\; COMMIT\;
INSERT INTO heap VALUES ('alone')
SQL

# Gives ids away until one is `remainder` behind the beginning of a page.
sub burn {
	my ($session, $remainder) = @_;
	$session->rows("DO \$\$ BEGIN WHILE pg_current_xact_id()::text::bigint % $ids_per_log_page <> $remainder LOOP"
		. ' COMMIT; END LOOP; END $$');
	return;
}

# Loses a transaction that has prepared a row, and nothing else that bears its id. `between` runs when it has its id.
sub lose {
	my ($name, $session, $between) = @_;
	$session->rows("SET aidb.fault_point = 'precommit_prepared=kill-all'");
	$session->rows('BEGIN');
	my ($id) = $session->rows('SELECT pg_current_xact_id()');
	$between->() if $between;
	is($session->run("INSERT INTO item VALUES ('$name')"), '00000', "$name: written");
	is($session->run('COMMIT'), undef, "$name: the server dies");
	AidbNode::wait_gone($_) for $node->processes;
	$node->crash;
	$node->start;
	$session = AidbSession->connect_until($node);
	my ($next) = $session->rows('SELECT pg_current_xact_id()');
	cmp_ok($next, '>', $id, "$name: the id is not given out again");
	is(join(' ', map { $session->run($use) // 'connection lost' } 1 .. 20), join(' ', ('00000') x 20),
		"$name: transactions go on from there");
	is(join(' ', $session->rows('SELECT k FROM item')), '', "$name: the row is nobody's");
	return $session;
}

sub checkpoint { $node->safe_psql('postgres', 'CHECKPOINT'); return }

sub commit_mixed {
	my ($session) = @_;
	is($session->transaction('SELECT pg_current_xact_id()', "INSERT INTO item VALUES ('kept')", 'DELETE FROM item'), '00000',
		'a transaction that reserves ids');
	return;
}

my $session = AidbSession->connect($node);
burn($session, 10);
$session = lose('alone', $session);

commit_mixed($session);
$session = lose('behind a reservation', $session);

commit_mixed($session);
checkpoint();
$session = lose('behind a checkpoint, which forgets the reservation', $session);

commit_mixed($session);
$session = lose('with a checkpoint after its id', $session, \&checkpoint);

for my $remainder ($ids_per_log_page - 2, 0) {
	burn($session, $remainder);
	$session = lose("$remainder in a page", $session);
}

# ---- A standby ---------------------------------------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
burn($session, 10);
commit_mixed($session);
my ($last) = $session->rows('SELECT pg_current_xact_id()');
$node->wait_for_catchup($standby);
$standby->promote;
my $promoted = AidbSession->connect_until($standby);
cmp_ok(($promoted->rows('SELECT pg_current_xact_id()'))[0], '>=', $last, 'a promoted standby goes on beyond the ids');
is(join(' ', map { $promoted->run($use) // 'connection lost' } 1 .. 20), join(' ', ('00000') x 20), 'and so do its transactions');

$promoted->close;
$session->close;
$standby->stop;
$node->stop;
done_testing();
