# A cluster of three groups behind its coordinator's database: what SQL gives over its tables is what it gives over a heap table;
# statements with the shard key go to one group; transactions follow the local one; and nodes that are away, hang, or are not
# what they were taken for give clear errors in time.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_) } qw(a b c);

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

sub error_of {
	my ($sql) = @_;
	my (undef, undef, $error) = $catalog->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

# ---- Groups -------------------------------------------------------------------------------------------------------

like(error_of('CREATE FOREIGN TABLE early (id int PRIMARY KEY) SERVER aidb_cluster'), qr/55000.*has no group.*aidb\.add_group/s, 'first a group');
for my $name (sort keys %node) {
	$node{$name}->safe_psql('postgres', 'SELECT aidb.become_primary()');
	ask("SELECT aidb.add_node('$name', 'host=" . $node{$name}->host . ' port=' . $node{$name}->port . " dbname=postgres')");
	ask("SELECT aidb.add_group('g$name', '$name', false)");
}
is(ask('SELECT count(*), count(DISTINCT "group") FROM aidb.slots'), '256|3', 'all slots are placed');
is(ask('SELECT max(n) <= 90 FROM (SELECT count(*) AS n FROM aidb.slots GROUP BY "group") s'), 't', 'evenly');

# ---- Rows -----------------------------------------------------------------------------------------------------------

my $columns = 'id int, n int, v text, f float8, m numeric, b bigint, t timestamptz, d date, j jsonb, a int[]';
ask("CREATE FOREIGN TABLE item ($columns, PRIMARY KEY (id), CONSTRAINT positive CHECK (n >= 0)) SERVER aidb_cluster");
ask("CREATE TABLE plain ($columns, PRIMARY KEY (id))");
ask(<<'SQL');
INSERT INTO plain SELECT i, i % 10, CASE WHEN i % 7 > 0 THEN 'v' || i % 1000 END, i / 3.0, i * 1.1, i * 1000000000::bigint,
	timestamptz '2020-01-01 12:00+02' + i * interval '1 hour', date '2020-01-01' + i % 100, jsonb_build_object('i', i, 's', E'\'"\\'), ARRAY[i, NULL, 2]
FROM generate_series(1, 5000) i
SQL
like(error_of('INSERT INTO item TABLE plain'), qr/0A000.*one group of the cluster only.*multi_group_writes/s, 'rows of several groups');
is(ask('SELECT count(*) FROM item'), '0', 'and none is there');
ask('SET aidb.multi_group_writes = separately; INSERT INTO item TABLE plain');
is(ask('SELECT count(*) FROM item'), '5000', 'unless that is wanted');
my @parts = map { $node{$_}->safe_psql('postgres', 'SELECT count(*) FROM item') } sort keys %node;
is($parts[0] + $parts[1] + $parts[2], 5000, "each group has its part: @parts");
ok((grep { $_ > 1000 } @parts) == 3, 'of about the same size');

my @queries = (
	'TABLE item ORDER BY id',
	'SELECT * FROM item WHERE id = 77',
	'SELECT v, a FROM item WHERE id IN (1, 20, 20, 300, 999999, NULL) ORDER BY id',
	'SELECT id FROM item WHERE id = 5 AND n = 3',
	'SELECT count(*) FROM item WHERE id > 4990 OR v IS NULL',
	"SELECT id FROM item WHERE v LIKE 'v1_' AND lower(v) = v ORDER BY id",
	"SELECT id FROM item WHERE t > timestamptz '2020-07-01' + interval '1 day' AND d < date '2020-02-01' ORDER BY id LIMIT 7",
	"SELECT count(*) FROM item WHERE t < now() - interval '1 year'",
	"SELECT id FROM item WHERE j ->> 'i' = '44' OR a[1] = 45 ORDER BY id",
	'SELECT v FROM item ORDER BY v DESC NULLS LAST, id LIMIT 5 OFFSET 3',
	'SELECT v, id FROM item WHERE n = 4 ORDER BY v NULLS FIRST, id DESC LIMIT 9',
	'SELECT count(*), count(v), sum(n), sum(b), sum(m), avg(n), avg(b), avg(m), min(v), max(t), min(d) FROM item',
	'SELECT round(avg(f)::numeric, 8), round(stddev(f)::numeric, 8), round(sum(f)::numeric, 4) FROM item',
	'SELECT count(*), sum(b), max(v) FROM item WHERE id < 0',
	'SELECT n, count(*), avg(b), count(*) FILTER (WHERE v IS NOT NULL) FROM item GROUP BY n ORDER BY n',
	'SELECT n + 1, d, sum(m) FROM item WHERE n > 7 GROUP BY n + 1, d HAVING count(*) > 4 ORDER BY 1, 2',
	'SELECT count(DISTINCT v), string_agg(v, chr(44) ORDER BY id) FROM item WHERE id < 30',
	'SELECT n, count(*) FROM item WHERE random() >= 0 GROUP BY n ORDER BY n',
	'SELECT a.id, b.id FROM item a JOIN item b ON a.id = b.id + 4000 WHERE a.n = 3 ORDER BY 1',
	'SELECT p.id, i.v FROM (VALUES (3), (44), (10000)) p (id) LEFT JOIN item i USING (id) ORDER BY 1',
	'SELECT id, (SELECT max(v) FROM item x WHERE x.id = item.n + 1) FROM item WHERE id < 12 ORDER BY id',
	'SELECT row_number() OVER (ORDER BY id), n FROM item WHERE id < 9',
	'SELECT id FROM item EXCEPT SELECT id FROM item WHERE id > 3 ORDER BY 1',
	'SELECT item FROM item WHERE id = 8',
	'SELECT CASE n WHEN 1 THEN \'one\' ELSE \'other\' END, count(*) FROM item GROUP BY 1 ORDER BY 1',
);
for my $query (@queries) {
	my $expected = ask($query =~ s/\bitem\b/plain/gr);
	is(ask($query), $expected, $query);
}

for my $settings ("datestyle = 'German, DMY'", 'extra_float_digits = -10', "intervalstyle = 'sql_standard'", "timezone = 'Asia/Kolkata'") {
	my $query = "SET $settings; SELECT id, t, f, d FROM item WHERE t > '01.02.2020 04:00' AND f < 1.0e2 / 3 AND d > '02.01.2020' ORDER BY id LIMIT 3";
	is(ask($query), ask($query =~ s/item/plain/r), "with $settings");
}

# ---- Plans -----------------------------------------------------------------------------------------------------------

sub plan { return ask("EXPLAIN (COSTS OFF, VERBOSE) $_[0]") }

like(plan('SELECT v FROM item WHERE id = 5'), qr/Groups: by shard key \(id\)\n +Remote SQL: SELECT v FROM public\.item WHERE \(\(id = \$1\)\)/, 'a key goes to its group');
like(ask('EXPLAIN (ANALYZE, COSTS OFF) SELECT v FROM item WHERE id = 5'), qr/Groups: g[abc]\n/, 'to one');
like(plan('SELECT n, avg(m) FROM item WHERE n > 2 GROUP BY n'), qr/Finalize HashAggregate.*Groups: all\n +Remote SQL: SELECT n, aidb\.partial_numeric\(m\) FROM public\.item WHERE \(\(n > 2\)\) GROUP BY 1/s, 'groups aggregate');
like(plan('SELECT id FROM item WHERE n = 1 ORDER BY id LIMIT 3'), qr/Remote SQL: SELECT id FROM public\.item WHERE \(\(n = 1\)\) ORDER BY id ASC NULLS LAST LIMIT 3/, 'they sort, and send no more than is needed');
like(plan('UPDATE item SET n = n + 1 WHERE id = 5'), qr/Foreign Update.*Remote SQL: UPDATE public\.item SET n = \(n \+ \$1\) WHERE \(\(id = \$2\)\)/s, 'and change rows where they are');
like(plan("SELECT id FROM item WHERE to_char(t, 'YYYY') = '2020'"), qr/Filter: .*to_char.*Remote SQL: SELECT id, t FROM public\.item$/s, 'what depends on settings is computed here');

# ---- Writes ---------------------------------------------------------------------------------------------------------

my $same = sub { is(ask('TABLE item ORDER BY id'), ask('TABLE plain ORDER BY id'), $_[0]) };
for my $statement (
	"INSERT INTO item (id, n, v) VALUES (6001, 1, 'new')",
	"INSERT INTO item (id, n) VALUES (6001, 2) ON CONFLICT DO NOTHING",
	"UPDATE item SET n = n + 100, v = upper(v) WHERE id = 17",
	"UPDATE item SET v = v || left(random()::text, 0), m = -m WHERE id = 18 AND n >= 0",
	"UPDATE item SET v = p.v FROM (VALUES (19, 'from')) p (id, v) WHERE item.id = p.id",
	'DELETE FROM item WHERE id = 20',
	'DELETE FROM item WHERE id = 123456',
	'DELETE FROM item USING (VALUES (21)) p (id) WHERE item.id = p.id',
	"BEGIN; UPDATE item SET n = 5 WHERE id = 30; SAVEPOINT s; DELETE FROM item WHERE id = 30; ROLLBACK TO s; UPDATE item SET v = 'kept' WHERE id = 30; COMMIT",
	'BEGIN; DELETE FROM item WHERE id = 31; ROLLBACK',
	"DO \$\$ BEGIN BEGIN INSERT INTO item (id, n) VALUES (32, 1); EXCEPTION WHEN unique_violation THEN UPDATE item SET v = 'caught' WHERE id = 32; END; END \$\$",
) {
	ask($_) for $statement, $statement =~ s/\bitem\b/plain/gr;
	$same->($statement);
}
is(ask("UPDATE item SET n = 7 WHERE id = 40 RETURNING id, n"), '40|7', 'UPDATE returns');
is(ask('DELETE FROM item WHERE id = 40 RETURNING id, n, v'), '40|7|v40', 'DELETE returns');
is(ask("INSERT INTO item (id, n) VALUES (40, 1) RETURNING id, n, v IS NULL"), '40|1|t', 'INSERT returns');
is(ask("BEGIN; INSERT INTO item (id, n) VALUES (41000, 1); SELECT n FROM item WHERE id = 41000; ROLLBACK"), '1', 'a transaction sees what it has written');
is(ask('SELECT count(*) FROM item WHERE id = 41000'), '0', 'and nobody after a rollback');
like(error_of('INSERT INTO item (id, n) VALUES (40, 1)'), qr/23505.*duplicate key.*\(id\)=\(40\).*node "[abc]" of group "g[abc]"/s, 'a duplicate');
like(error_of('INSERT INTO item (id, n) VALUES (90000, -1)'), qr/23514.*"positive"/s, 'a constraint');
like(error_of('UPDATE item SET n = -1 WHERE id = 40'), qr/23514.*"positive"/s, 'also of an UPDATE');
like(error_of('INSERT INTO item (n) VALUES (1)'), qr/23502.*null value in column "id"/s, 'no shard key');
like(error_of("INSERT INTO item (id) VALUES ('x')"), qr/22P02/, 'one of another type');
like(error_of('UPDATE item SET n = 0'), qr/0A000.*one group of the cluster only/s, 'an UPDATE of several groups');
like(error_of('BEGIN; ' . join('; ', map { "UPDATE item SET n = 0 WHERE id = $_" } 1 .. 9) . '; COMMIT'), qr/0A000.*It has written to group "g[abc]", and is about to write to group/s, 'a transaction over several');
like(error_of("BEGIN; UPDATE item SET n = 1 WHERE id = 1; PREPARE TRANSACTION 'x'"), qr/0A000.*cannot PREPARE/s, 'no PREPARE');
like(error_of(join ' ', map { "UPDATE item SET id = id + $_ * 100000 WHERE id = 50;" } 1 .. 8), qr/0A000.*cannot move a row/s, 'a row stays in its group');
is(ask('SELECT count(*) FROM item WHERE n = 0 AND id <> 40'), ask('SELECT count(*) FROM plain WHERE n = 0 AND id <> 40'), 'nothing of that has happened');

# ---- Definitions -----------------------------------------------------------------------------------------------------

like(error_of('ALTER FOREIGN TABLE item ADD COLUMN z int'), qr/0A000.*cannot change the definition/s, 'ALTER');
like(error_of('CREATE FOREIGN TABLE bad (a int, b int, PRIMARY KEY (a, b)) SERVER aidb_cluster OPTIONS (shard_key \'b\')'), qr/42P16.*invalid shard key "b".*first/s, 'a shard key that the key does not begin with');
like(error_of('CREATE FOREIGN TABLE bad (a int) SERVER aidb_cluster'), qr/42P16.*no primary key/s, 'no key at all');
like(error_of("SELECT aidb.add_group('late', 'a')"), qr/55006.*node "a" is in a group already.*add_node/s, 'a node is in one group');
ask("CREATE SCHEMA other; CREATE FOREIGN TABLE other.\"Odd name\" (\"A b\" text COLLATE \"C\", b varchar(5), n int, PRIMARY KEY (\"A b\", b)) SERVER aidb_cluster OPTIONS (shard_key '\"A b\", b')");
ask("INSERT INTO other.\"Odd name\" VALUES ('x', 'y', 1)");
is(ask("SELECT * FROM other.\"Odd name\" WHERE \"A b\" = 'x' AND b = 'y'"), 'x|y|1', 'odd names');
is(ask("SELECT * FROM other.\"Odd name\" WHERE \"A b\" > 'w'"), 'x|y|1', 'a part of the shard key');
ask('CREATE FOREIGN TABLE brief (id int PRIMARY KEY) SERVER aidb_cluster; SET aidb.multi_group_writes = separately; INSERT INTO brief SELECT generate_series(1, 99)');
ask('BEGIN; TRUNCATE brief; ROLLBACK');
is(ask('SELECT count(*) FROM brief'), '99', 'TRUNCATE rolls back');
ask('TRUNCATE brief');
is(ask('SELECT count(*) FROM brief'), '0', 'and reaches all');
ask('BEGIN; DROP FOREIGN TABLE brief; ROLLBACK');
is(ask('SELECT count(*) FROM brief'), '0', 'DROP rolls back');
ask('DROP FOREIGN TABLE brief; DROP SCHEMA other CASCADE');
my $tables = "SELECT count(*) FROM pg_foreign_table";
is(join(' ', map { $node{$_}->safe_psql('postgres', $tables) } sort keys %node), '1 1 1', 'and reaches all');

# What a crash between the two phases leaves behind is ended as the transaction here has ended.
my $system = $catalog->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
my $database = ask("SELECT oid FROM pg_database WHERE datname = 'postgres'");
my $committed = ask('BEGIN; SELECT pg_current_xact_id(); COMMIT');
my $aborted = ask('BEGIN; SELECT pg_current_xact_id(); ROLLBACK');
$node{a}->safe_psql('postgres', "BEGIN; CREATE TABLE left_$_ (); PREPARE TRANSACTION 'aidb:$system:$database:$_:1'") for $committed, $aborted;
is(ask('SELECT aidb.finish_transactions()'), '2', 'transactions that were left prepared');
is($node{a}->safe_psql('postgres', "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname LIKE 'left%'"), "left_$committed", 'are ended');

# ---- Replicas --------------------------------------------------------------------------------------------------------

# Reads go to replicas where there are some, see what the session has committed, and do without a replica that is away.
my %replica = map { $_ => AidbNode->launch($_, conf => 'aidb.row_cache = 8MB') } qw(s k);
for my $of ([ s => 'standby' ], [ k => 'cache' ]) {
	my ($name, $role) = @$of;
	$replica{$name}->safe_psql('postgres', "SELECT aidb.follow('host=" . $node{a}->host . ' port=' . $node{a}->port . " dbname=postgres', '$name', '$role')");
	$replica{$name}->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()") or die;
	ask("SELECT aidb.add_node('$name', 'host=" . $replica{$name}->host . ' port=' . $replica{$name}->port . " dbname=postgres'), aidb.add_replica('ga', '$name', '$role')");
	ask("UPDATE aidb.node SET state = 'up' WHERE name = '$name'");
}
my $mine = $node{a}->safe_psql('postgres', 'SELECT min(id) FROM item WHERE id > 100');
for my $of ([ s => 'standby' ], [ k => 'cache' ]) {
	my ($name, $role) = @$of;
	my $reader = AidbSession->connect($catalog);
	$reader->run("SET aidb.read_from = '$role'");
	for my $round (1 .. 20) {
		$reader->run("UPDATE item SET v = '$role $round' WHERE id = $mine");
		my ($v) = $reader->rows("SELECT v FROM item WHERE id = $mine");
		is($v, "$role $round", "a session sees at the $role what it has written") if $v ne "$role $round" || $round == 20;
	}
	is(join('', $reader->rows('SELECT count(*) FROM item')), ask('SELECT count(*) FROM item'), 'a scan over all groups');
	my $at = $replica{$name}->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aidb router'");
	cmp_ok($at, '>', 0, "reads are at the $role");
	# What it has read at the primary it sees at a replica that is behind, when that has come so far.
	my $follower = $replica{$name}->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'aidb standby%'");
	kill 'STOP', $follower;
	ask("UPDATE item SET v = 'ahead' WHERE id = $mine");
	is(join('', $reader->rows("SELECT v FROM item WHERE id = $mine")), "$role 20", "the $role is behind");
	is(join('', $reader->rows("SET aidb.read_from = 'primary'; SELECT v FROM item WHERE id = $mine")), 'ahead', 'the primary is not');
	my $going_on = fork // die;
	if ($going_on == 0) {
		sleep 1;
		kill 'CONT', $follower;
		POSIX::_exit(0);
	}
	is(join('', $reader->rows("SET aidb.read_from = '$role'; SELECT v FROM item WHERE id = $mine")), 'ahead', 'a session does not go back');
	waitpid $going_on, 0;
	ask("UPDATE item SET v = '$role 20' WHERE id = $mine");
	$reader->run("BEGIN; UPDATE item SET v = 'own' WHERE id = $mine");
	is(join('', $reader->rows("SELECT v FROM item WHERE id = $mine")), 'own', 'not in the middle of a transaction that writes');
	$reader->run('ROLLBACK');
	$replica{$name}->crash;
	is(join('', $reader->rows("SELECT v FROM item WHERE id = $mine")), "$role 20", 'without it the primary is read');
	ask("SELECT aidb.remove_replica('ga', '$name')");
}

# ---- Nodes that are away ----------------------------------------------------------------------------------------------

my $short = 'SET aidb.failover_timeout = 300; SET aidb.node_timeout = 300;';
my %key = map { my $name = $_; $name => $node{$name}->safe_psql('postgres', 'SELECT min(id) FROM item') } sort keys %node;
my $session = AidbSession->connect($catalog);
$session->rows("SELECT v FROM item WHERE id = $_") for values %key;

$node{b}->crash;
like(error_of("$short SELECT count(*) FROM item"), qr/08001.*could not connect to node "b", the primary of group "gb".*aidb\.groups/s, 'a scan needs all groups');
is(ask("SELECT id FROM item WHERE id = $key{a}"), $key{a}, 'a key only its own');
like(error_of("$short CREATE FOREIGN TABLE half (id int PRIMARY KEY) SERVER aidb_cluster"), qr/08001.*node "b"/s, 'a definition needs all');
is(join(' ', map { $node{$_}->safe_psql('postgres', $tables) } qw(a c)), '1 1', 'and leaves nothing behind');
is($node{a}->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'prepared neither');
$node{b}->start;
is(join('', $session->rows("SELECT id FROM item WHERE id = $key{b}")), $key{b}, 'a session whose connection has died connects again');

# ---- Nodes that hang ---------------------------------------------------------------------------------------------------

my @hung = $node{c}->processes;
kill 'STOP', @hung;
my $begin = time;
like(error_of("SET statement_timeout = 500; SELECT count(*) FROM item"), qr/57014.*statement timeout/s, 'a statement can be cancelled');
cmp_ok(time - $begin, '<', 4, 'in time');
$begin = time;
is($session->run("SET aidb.node_timeout = 500; SET aidb.failover_timeout = 500; SELECT id FROM item WHERE id = $key{c}"), '08001', 'a node that hangs is an error');
cmp_ok(time - $begin, '<', 15, sprintf 'after %.1f s', time - $begin);
is(ask("SELECT id FROM item WHERE id = $key{a}"), $key{a}, 'others are not concerned');
kill 'CONT', @hung;
is(join('', $session->rows("SELECT id FROM item WHERE id = $key{c}")), $key{c}, 'it is asked again when it goes on');

# ---- Nodes that are not what they were --------------------------------------------------------------------------------

$node{c}->safe_psql('postgres', 'SELECT aidb.seal(2)');
like(error_of("$short SELECT id FROM item WHERE id = $key{c}"), qr/08006.*No other node has taken its place/s, 'a primary that was sealed is not asked');
like(error_of("$short INSERT INTO item (id, n) VALUES ($key{c}, 1)"), qr/08006|08007/, 'nor written to');
is(ask("SELECT id FROM item WHERE id = $key{a}"), $key{a}, 'the other groups are');

done_testing();
