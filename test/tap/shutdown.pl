# Every way a server is stopped and started, and what AiDb says where it cannot work: in a standby, without being
# preloaded, with memory settings that make no sense.
use strict;
use warnings;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AidbNode->create('main', conf => <<'CONF');
wal_level = replica
max_wal_senders = 4
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION aidb;
CREATE TABLE heap (k int PRIMARY KEY);
CREATE FOREIGN TABLE item (k int PRIMARY KEY, v text) SERVER aidb;
SQL

# What a statement printed on stderr, with SQLSTATE, detail and hint.
sub error_of {
	my ($server, $sql) = @_;
	my (undef, undef, $error) = $server->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $error;
}

# ---- Stopping and starting ---------------------------------------------------------------------------------------

my $rows = 0;

# Three commits: of AiDb alone, of both, and one that does not wait for the disk.
sub write_rows {
	my ($asynchronous) = @_;
	my ($first, $second, $third) = map { ++$rows } 1 .. 3;
	$node->safe_psql('postgres', <<"SQL");
INSERT INTO item VALUES ($first, 'plain');
BEGIN; INSERT INTO item VALUES ($second, 'mixed'); INSERT INTO heap VALUES ($second); COMMIT;
SET synchronous_commit = $asynchronous;
INSERT INTO item VALUES ($third, 'asynchronous');
SQL
	return;
}

sub found {
	return $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM item), (SELECT count(*) FROM heap)');
}

for my $mode (qw(smart fast immediate)) {
	write_rows($mode eq 'immediate' ? 'on' : 'off');
	$node->stop($mode);
	$node->start;
	is(found(), "$rows|" . $rows / 3, "$mode shutdown keeps all commits");
}

write_rows('on');
$node->safe_psql('postgres', 'SELECT aidb.flush()');
$node->restart;
is(found(), "$rows|" . $rows / 3, 'and so it is with the rows in SSTables');

write_rows('on');
$node->crash;
$node->start;
is(found(), "$rows|" . $rows / 3, 'and when nothing is shut down at all');

# ---- Without a postmaster ----------------------------------------------------------------------------------------

$node->stop;
{
	my $input = "INSERT INTO item VALUES (1001, 'single');\nSELECT count(*), max(v) FROM item WHERE k > 1000;\n";
	my ($output, $errors);
	my $worked = IPC::Run::run [ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ], '<', \$input, '>', \$output,
		'2>', \$errors;
	ok($worked, 'single-user mode works') or diag($errors);
	like($output, qr/count = "1".*max = "single"/s, 'and sees what it wrote');
}
$node->start;
is($node->safe_psql('postgres', 'SELECT v FROM item WHERE k = 1001'), 'single', 'as does the server afterwards');
$node->safe_psql('postgres', 'DELETE FROM item WHERE k = 1001');

# ---- A standby ---------------------------------------------------------------------------------------------------

{
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	$node->safe_psql('postgres', 'INSERT INTO heap VALUES (2000)');
	ok($standby->poll_query_until('postgres', 'SELECT count(*) = 1 FROM heap WHERE k = 2000'), 'a standby gets heap rows');
	my $error = error_of($standby, 'SELECT * FROM item');
	like($error, qr/ERROR:  0A000: AiDb tables cannot be used on a standby server/, 'and refuses AiDb tables');
	like($error, qr/HINT:  Connect to the primary server/, 'with a hint');
	like($standby->safe_psql('postgres', 'SELECT status FROM aidb.health()'), qr/^unavailable/, 'health says so, too');
	is($standby->safe_psql('postgres', 'SELECT count(*) > 0 FROM heap'), 't', 'the standby goes on');
	$standby->promote;
	$error = error_of($standby, 'SELECT * FROM item');
	like($error, qr/ERROR:  55000: the AiDb store does not have the past of this server/, 'promoted, it refuses them as well');
	is($standby->safe_psql('postgres', 'INSERT INTO heap VALUES (2001); SELECT count(*) FROM heap WHERE k > 1999'), '2',
		'and goes on');
	$standby->restart;
	$error = error_of($standby, 'SELECT * FROM item');
	like($error, qr/HINT:  Go back to the server that was the primary/, 'with a hint');
	$standby->stop;
	$node->safe_psql('postgres', 'DELETE FROM heap WHERE k = 2000');
}

# ---- Settings ----------------------------------------------------------------------------------------------------

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
for my $statement ('SELECT * FROM item', "INSERT INTO item VALUES (5000, 'x')", 'SELECT * FROM aidb.stats()') {
	my $error = error_of($node, $statement);
	like($error, qr/ERROR:  55000: AiDb is not loaded in this server/, "not preloaded: $statement");
	like($error, qr/HINT:  Add "aidb" to shared_preload_libraries/, 'with a hint');
}
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', 'aidb');
$node->restart;
is(found(), "$rows|" . $rows / 3, 'preloaded again: all rows are there');

# Starts with a setting that should be refused; what the log says.
sub refused_start {
	my ($name, $value) = @_;
	$node->stop;
	my $offset = -s $node->logfile;
	my ($before) = slurp_file($node->data_dir . '/postgresql.conf') =~ /^$name\s*=\s*(.*)$/m;
	$node->adjust_conf('postgresql.conf', $name, $value);
	my $started = $node->start(fail_ok => 1);
	$node->adjust_conf('postgresql.conf', $name, $before);
	$started ? $node->restart : $node->start;
	return ($started, slurp_file($node->logfile, $offset));
}

for my $value ('1MB', "'64GB'", "'much'") {
	my ($started, $log) = refused_start('aidb.memory', $value);
	ok(!$started, "aidb.memory = $value: the server does not start");
	like($log, qr/FATAL:  invalid value for parameter "aidb\.memory".*HINT:  Give it a size/s, 'and says what would do');
}
$node->append_conf('postgresql.conf', 'max_connections = 100');
{
	my ($started, $log) = refused_start('max_connections', '20000');
	ok(!$started, 'too little memory for so many connections: the server does not start');
	like($log, qr/could not set up AiDb's shared memory.*HINT:  Raise "aidb.memory" or lower "max_connections"/s,
		'and says why');
}
is(found(), "$rows|" . $rows / 3, 'after all that all rows are there');
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well');
done_testing();
