# PREPARE TRANSACTION over AiDb and heap tables: what is prepared outlives restarts and crashes, with its locks, and is then
# committed or rolled back as a whole.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use Test::More;

# so little memory that a few thousand locks are a good part of all
my $node = AidbNode->launch('main', memory => '16MB', fsync => 'on', conf => "max_prepared_transactions = 4");
my $rows = 5000; # more than a transaction may have of the locks there are

$node->safe_psql('postgres', <<"SQL");
CREATE FOREIGN TABLE item (k int PRIMARY KEY, v int) SERVER aidb;
CREATE FOREIGN TABLE many (k int PRIMARY KEY, v int) SERVER aidb;
CREATE TABLE heap (k int PRIMARY KEY);
INSERT INTO item SELECT i, 0 FROM generate_series(1, 10) i;
INSERT INTO many SELECT i, 0 FROM generate_series(1, $rows) i;
SQL

sub ask { return $node->safe_psql('postgres', $_[0]); }

sub prepare {
	my ($gid, @statements) = @_;
	ask(join ";\n", 'BEGIN', @statements, "PREPARE TRANSACTION '$gid'");
	return;
}

# The SQLSTATE of a statement that must not wait for others.
sub state_of {
	my ($sql) = @_;
	my $session = AidbSession->connect_until($node);
	$session->rows("SET lock_timeout = '1ms'");
	return $session->run($sql);
}

sub locks {
	return ask("SELECT value FROM aidb.stats() WHERE name = 'row_locks'");
}

is(locks(), '0', 'nothing is locked at first');
prepare('changed', 'UPDATE item SET v = 1 WHERE k = 1', 'INSERT INTO item VALUES (11, 1)', 'INSERT INTO heap VALUES (1)');
prepare('undone', 'UPDATE item SET v = 2 WHERE k = 2', 'DELETE FROM item WHERE k = 4', 'INSERT INTO heap VALUES (2)');
prepare('locked', 'SELECT * FROM item WHERE k = 3 FOR SHARE');
prepare('large', 'UPDATE many SET v = v + 1');

# Everything is as it was left: nothing to be seen, and the rows locked.
sub check_prepared {
	my ($when) = @_;
	is(ask('SELECT sum(v) || \' \' || count(*) FROM item'), '0 10', "$when: nothing of it is to be seen");
	is(ask('SELECT sum(v) FROM many'), '0', "$when: nor of the large one");
	is(state_of("UPDATE item SET v = 9 WHERE k = $_"), '55P03', "$when: row $_ is locked") for 1 .. 4;
	is(state_of('INSERT INTO item VALUES (11, 9)'), '55P03', "$when: so is the key that was inserted");
	is(state_of('SELECT * FROM item WHERE k = 3 FOR SHARE'), '00000', "$when: the shared one can be shared");
	is(state_of("UPDATE many SET v = 9 WHERE k = $_"), '55P03', "$when: row $_ of the large one is locked") for 1, $rows;
	is(state_of('UPDATE item SET v = v WHERE k = 5'), '00000', "$when: others are not");
	return;
}

check_prepared('at once');
$node->restart;
check_prepared('after a restart');
ask('SELECT aidb.flush()');
$node->crash;
$node->start;
check_prepared('after a crash');
my $backend = AidbSession->connect_until($node);
$node->crash_backend(($backend->rows('SELECT pg_backend_pid()'))[0]);
check_prepared('after the crash of a backend');

# Finished by somebody else.
ask("COMMIT PREPARED 'changed'");
is(ask('SELECT v FROM item WHERE k = 1'), '1', 'committed');
is(ask('SELECT v FROM item WHERE k = 11'), '1', 'with the row that was inserted');
is(ask('SELECT count(*) FROM heap WHERE k = 1'), '1', 'and the heap row');
is(state_of('UPDATE item SET v = v + 1 WHERE k = 1'), '00000', 'its locks are gone');
ask("ROLLBACK PREPARED 'undone'");
is(ask('SELECT v FROM item WHERE k = 2'), '0', 'rolled back');
is(ask('SELECT count(*) FROM item WHERE k = 4'), '1', 'the deleted row is there');
is(state_of('UPDATE item SET v = v + 1 WHERE k IN (2, 4)'), '00000', 'its locks are gone');

# Finished by a crash in the middle of things: at each step it is still prepared or not at all there.
for my $point (qw(preprepare_reserved precommit_piece_prepared precommit_prepared prepare_begin)) {
	my $session = AidbSession->connect_until($node);
	$session->rows("SET aidb.fault_point = '$point=kill-all'");
	is($session->run("BEGIN\\; UPDATE item SET v = v + 10 WHERE k = 7\\; INSERT INTO heap VALUES (7)\\; PREPARE TRANSACTION 'killed'"),
		undef, "killed at $point");
	AidbNode::wait_gone($_) for $node->processes;
	$node->crash;
	$node->start;
	my $there = ask("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'killed'");
	is($there, $point eq 'prepare_begin' ? '1' : '0', "at $point it is prepared: $there");
	is(state_of('UPDATE item SET v = v WHERE k = 7'), $there ? '55P03' : '00000', 'its row is locked if it is');
	ask("ROLLBACK PREPARED 'killed'") if $there;
	is(ask('SELECT v FROM item WHERE k = 7'), '0', 'nothing of it is there');
}

# An error at a step leaves nothing behind.
for my $point (qw(preprepare_reserved precommit_prepared)) {
	my $session = AidbSession->connect_until($node);
	$session->rows("SET aidb.fault_point = '$point=error'");
	is($session->run("BEGIN\\; UPDATE item SET v = v + 10 WHERE k = 7\\; PREPARE TRANSACTION 'failed'"), 'XX000', "error at $point");
	$session->run('ROLLBACK');
	is(state_of('UPDATE item SET v = v WHERE k = 7'), '00000', 'the row is free');
}

ask("COMMIT PREPARED 'large'");
ask("COMMIT PREPARED 'locked'");
is(ask('SELECT sum(v) FROM many'), "$rows", 'the large one is committed');
is(state_of('UPDATE item SET v = 3 WHERE k = 3'), '00000', 'and what was shared is free');
is(locks(), '0', 'nothing is locked at last');

# What fails takes no place: neither the second of a name nor one that PostgreSQL has no place for.
prepare('p1', 'UPDATE item SET v = 1 WHERE k = 1');
for (1 .. 6) {
	my $session = AidbSession->connect_until($node);
	is($session->run("BEGIN\\; UPDATE item SET v = 9 WHERE k = 9\\; PREPARE TRANSACTION 'p1'"), '42710', 'a name is there once');
}
prepare("p$_", "UPDATE item SET v = $_ WHERE k = $_") for 2 .. 4;
for (1 .. 2) {
	my $session = AidbSession->connect_until($node);
	is($session->run("BEGIN\\; UPDATE item SET v = 9 WHERE k = 9\\; PREPARE TRANSACTION 'p5'"), '53200', 'there is no more room');
}
is(state_of('UPDATE item SET v = v WHERE k = 9'), '00000', 'the row is free');
ask("COMMIT PREPARED 'p$_'") for 1 .. 4;
is(ask('SELECT sum(v) FROM item WHERE k <= 4'), '10', 'there is room for others');

# After a restart with less memory it does not take all the room for locks.
sub restart_with {
	$node->append_conf('postgresql.conf', "aidb.memory = '$_[0]'");
	$node->restart;
	return;
}

restart_with('64MB');
prepare('large', 'UPDATE many SET v = v + 1');
is(locks(), "$rows", 'with more memory each row of the large one has a lock');
restart_with('16MB');
is(state_of('UPDATE item SET v = v WHERE k <= 4'), '00000', 'with less there is room for others');
cmp_ok(locks(), '<', $rows, 'since it has fewer');
is(state_of("UPDATE many SET v = 9 WHERE k = $_"), '55P03', "but row $_ is locked") for 1, $rows;
ask("COMMIT PREPARED 'large'");
is(locks(), '0', 'and then free');
done_testing();
