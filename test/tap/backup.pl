# Backup and restore: what is restored is what was there, to the row, at the moment that was asked for; whatever is damaged in a repository is
# named, and never restored.
use strict;
use warnings;
use AidbNode;
use IPC::Run;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $temporary = PostgreSQL::Test::Utils::tempdir();
my $repository = "$temporary/repository";
my $node = AidbNode->launch('source', fsync => 'on');
our $conninfo = $node->conninfo;
my ($output, $errors);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Runs aidb-admin; what it said is in $output and $errors.
sub admin {
	my (@words) = @_;
	return IPC::Run::run([ './aidb-admin', "--conninfo=$conninfo", "--repo=$repository", @words ], '<', \undef, '>', \$output, '2>', \$errors);
}

sub admin_ok {
	my (@words) = @_;
	ok(admin(@words), "aidb-admin @words") or diag("$output$errors");
	return $output;
}

# That it is refused, with these words.
sub admin_fails {
	my ($expected, @words) = @_;
	ok(!admin(@words), "refused: aidb-admin @words");
	like($output . $errors, $expected, 'it says why');
	return;
}

# Everything in AiDb tables and key spaces, as one text.
my $contents = q{SELECT md5(string_agg(t::text, ' ' ORDER BY t)) FROM (
	SELECT 'a', id, v FROM account UNION ALL SELECT 'b', id, note FROM log UNION ALL SELECT 'c', 0, encode(key, 'hex') || encode(value, 'hex') FROM aidb.scan('space')) t};

my $restored = 0;

# Restores with these options, compares, and returns the server, which runs.
sub restore {
	my ($expected, @options) = @_;
	my $server = AidbNode->promised('restored' . ++$restored);
	admin_ok('restore', $server->data_dir, @options);
	$server->start_promised;
	is($server->safe_psql('postgres', $contents), $expected, 'the same is there');
	return $server;
}

# ---- Moments -----------------------------------------------------------------------------------------------------

sql(<<'SQL');
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FOREIGN TABLE account (id int PRIMARY KEY, v text) SERVER aidb;
CREATE FOREIGN TABLE log (id bigint PRIMARY KEY, note text) SERVER aidb;
CREATE FOREIGN TABLE feeling (id int PRIMARY KEY, m mood) SERVER aidb;
CREATE TABLE heap (id int);
INSERT INTO account SELECT i, md5(i::text) FROM generate_series(1, 100000) i;
INSERT INTO log SELECT i, 'first' FROM generate_series(1, 1000) i;
INSERT INTO feeling VALUES (1, 'good');
SELECT aidb.put('space', 'k' || i::text::bytea, 'v') FROM generate_series(1, 100) i;
SQL
like(admin_ok('backup'), qr/^backup \w+ of database postgres is in \Q$repository\E: \d+ files/, 'a backup is taken');
my $at_first = sql($contents);

# In one transaction with a heap table, and one that is prepared and finished later.
sql(q{BEGIN; INSERT INTO heap VALUES (1); UPDATE account SET v = 'mixed' WHERE id <= 10; COMMIT});
sql(q{BEGIN; INSERT INTO heap VALUES (2); UPDATE account SET v = 'prepared' WHERE id = 20; PREPARE TRANSACTION 'p'});
sql(q{BEGIN; INSERT INTO heap VALUES (3); UPDATE account SET v = 'undone' WHERE id = 30; ROLLBACK});
my $with_open = sql($contents);
like(admin_ok('point', 'while one is prepared'), qr/is commit \d+/, 'a restore point');
sql(q{COMMIT PREPARED 'p'});
my $with_prepared = sql($contents);
admin_ok('point', 'after it was');
sql(q{ALTER TABLE log ADD COLUMN more int DEFAULT 7; DELETE FROM account WHERE id % 2 = 0; TRUNCATE log; INSERT INTO log VALUES (5, 'five');
	SELECT aidb.put('space', 'another', 'value'); CREATE FOREIGN TABLE late (id int PRIMARY KEY) SERVER aidb; INSERT INTO late VALUES (1)});
my $sequence = sql(q{SELECT sequence FROM aidb.node_status()});
my $at_sequence = sql($contents);
admin_ok('archive', '--once');
sleep 1.1; # the clock of the marks ticks every second
my $between = sql('SELECT clock_timestamp()');
sleep 1.1;
sql(q{DROP FOREIGN TABLE log; CREATE FOREIGN TABLE log (id bigint PRIMARY KEY, note text) SERVER aidb; INSERT INTO account VALUES (-1, 'last')});
sleep 2.2; # so that the archive goes beyond that moment
sql(q{INSERT INTO account VALUES (-2, 'after')});
my $at_last = sql($contents);

admin_ok('archive', '--once');
admin_ok('backup');
like(admin_ok('backup'), qr/of which [\d.]+ B were new/, 'a backup writes what is new');
my $info = decode_json(admin_ok('info', '--json'));
is(scalar @{ $info->{backups} }, 3, 'info has all backups');
is(join(',', map { $_->{status} } @{ $info->{backups} }), 'ok,ok,ok', 'they are well');
is(scalar @{ $info->{log} }, 1, 'and a log without gaps');
is(join(',', map { $_->{name} } @{ $info->{points} }), 'after it was,while one is prepared', 'and the restore points');
like(admin_ok('info'), qr/^restore point after it was  commit \d+/m, 'info is for people, too');
is(sql(q{SELECT count(*) FROM aidb.backup WHERE finished > now() - interval '1 hour' AND bytes > stored_bytes}), '2', 'the server knows of its backups');
like(admin_ok('verify'), qr/^3 backups, .* 0 problems$/, 'the repository is well');

my $first = $info->{backups}[0]{label};
append_to_file("$temporary/before.sql", "CREATE TYPE mood AS ENUM ('good', 'bad');\n");
my @before = ("--before=$temporary/before.sql");
my $server = restore($at_last, @before);
is($server->safe_psql('postgres', 'SELECT m FROM feeling; SELECT * FROM late'), "good\n1", 'tables with types of their own');
$server->safe_psql('postgres', q{INSERT INTO account VALUES (-3, 'goes on'); CREATE FOREIGN TABLE next (id int PRIMARY KEY) SERVER aidb; INSERT INTO next VALUES (1)});
$server->crash;
$server->start;
is($server->safe_psql('postgres', 'SELECT count(*) FROM account WHERE id = -3; SELECT * FROM next'), "1\n1", 'the restored server is one like others');
{ # of which a backup can be taken, too
	local $conninfo = $server->conninfo;
	like(admin_ok('backup'), qr/is in/, 'it can be backed up, into the same repository');
}
$server->stop;
restore($with_open, @before, '--to-point=while one is prepared')->stop;
restore($with_prepared, @before, '--to-point=after it was')->stop;
restore($at_sequence, @before, "--to-sequence=$sequence", "--backup=$first")->stop;
restore($at_sequence, @before, "--to-time=$between", "--backup=$first")->stop;

# ---- Refusals ----------------------------------------------------------------------------------------------------

my $none = "$temporary/none";
admin_fails(qr/type "mood" does not exist/, 'restore', $none, "--backup=$first");
ok(!-e $none, 'what was not restored is gone');
mkdir $none;
append_to_file("$none/file", 'mine');
admin_fails(qr/is not empty, and nothing is overwritten/, 'restore', $none, @before);
is(slurp_file("$none/file"), 'mine', 'what is there stays');
unlink "$none/file";
rmdir $none;
admin_fails(qr/no restore point "nowhere"/, 'restore', $none, '--to-point=nowhere');
admin_fails(qr/none of the 4 backups .* leads to that target/, 'restore', $none, '--to-time=2001-01-01 00:00:00');
admin_fails(qr/does not come to that time/, 'restore', $none, '--to-time=2101-01-01 00:00:00Z');
admin_fails(qr/goes on from backup \w+ to commit \d+ without a gap, and is needed to 999999999/, 'restore', $none, '--to-sequence=999999999');
admin_fails(qr/there is no backup 20010101T000000Z/, 'restore', $none, '--backup=20010101T000000Z');
admin_fails(qr/give one of --to-time/, 'restore', $none, '--to-time=yesterday');
admin_fails(qr/cannot connect to the server/, 'backup', '--conninfo=host=/nowhere');
admin_fails(qr/no backup in/, 'restore', $none, "--repo=$temporary/empty");
admin_fails(qr/no place for a repository/, 'info', '--repo=ftp://host/path');
admin_fails(qr/unknown option, or not with this value: --jobs=0/, 'backup', '--jobs=0');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION aidb; CREATE FOREIGN TABLE t (id int PRIMARY KEY) SERVER aidb');
admin_fails(qr/database "other" of this server has AiDb tables, too/, 'backup');
$node->safe_psql('postgres', 'DROP DATABASE other');
ok(!-e $none, 'nothing is left of any of these');

# ---- Damage ------------------------------------------------------------------------------------------------------

my ($newest) = map { $_->{label} } grep { $_->{store} eq $info->{backups}[0]{store} } reverse @{ $info->{backups} };
my @objects = sort { -s $b <=> -s $a } glob "$repository/objects/*/*";
my @pieces = sort { -s $b <=> -s $a } glob "$repository/log/$info->{backups}[0]{store}/*"; # the first has the restore points

# With something done to the repository: verify names the file, and restore does not use it.
sub damaged {
	my ($what, $file, $spoil, %expected) = @_;
	my $whole = slurp_file($file);
	$spoil->($file);
	my ($name) = $file =~ m{([^/]+)$};
	ok(!admin('verify'), "$what: verify fails");
	like($output, qr/\Q$name\E/, 'and names it');
	ok(!admin('restore', $none, @before, "--backup=$newest"), 'it is not restored') if !$expected{not_needed};
	like($errors, qr/\Q$name\E|\Q$newest\E/, 'and restore names it, too') if !$expected{not_needed};
	ok(!-e $none, 'nothing is there');
	unlink $file;
	append_to_file($file, $whole);
	return;
}

sub flip {
	my ($file) = @_;
	my $bytes = slurp_file($file);
	substr($bytes, length($bytes) / 2, 1) ^= "\1";
	unlink $file;
	append_to_file($file, $bytes);
	return;
}

damaged('a flipped bit in a table', $objects[0], \&flip);
damaged('a table cut short', $objects[0], sub { truncate $_[0], 1000 });
damaged('a missing table', $objects[0], sub { unlink $_[0] });
damaged('a table that is another', $objects[0], sub { unlink $_[0]; append_to_file($_[0], slurp_file($objects[1])) });
damaged('a manifest with a flipped bit', "$repository/backups/$newest", \&flip);
damaged('a manifest that is another', "$repository/backups/$newest", sub { unlink $_[0]; append_to_file($_[0], slurp_file("$repository/backups/$first")) });
damaged('a piece of the log with a flipped bit', $pieces[0], \&flip, not_needed => 1);
damaged('a piece of the log that is another', $pieces[0], sub { unlink $_[0]; append_to_file($_[0], slurp_file($pieces[-1])) }, not_needed => 1);
{
	my $away = "$temporary/away";
	rename $pieces[0], $away;
	admin_fails(qr/a piece is missing: the log of store \w+ from commit \d+ to \d+/, 'verify');
	admin_fails(qr/goes on from backup $first to commit \d+ without a gap, and is needed to/, 'restore', $none, @before, "--backup=$first", '--to-point=after it was');
	rename $away, $pieces[0];
}
my ($piece_name) = $pieces[0] =~ m{([^/]+)$};
flip($pieces[0]);
admin_fails(qr/\Q$piece_name\E/, 'restore', $none, @before, "--backup=$first", '--to-point=after it was');
ok(!-e $none, 'nothing of that is left either');
flip($pieces[0]);
like(admin_ok('verify'), qr/ 0 problems$/, 'all is as it was');

# The files of the newest backup, the largest first.
sub newest_files {
	my ($label) = map { $_->{label} } reverse @{ decode_json(admin_ok('info', '--json'))->{backups} };
	return map { $_->[0] } sort { $b->[1] <=> $a->[1] } map { [ /^file (\w+) (\d+)/ ] } grep { /^file/ } split /\n/, slurp_file("$repository/backups/$label");
}

# What a broken disk has cut short is written again by the next backup that has the file. A compaction between the two backups
# takes it from the store, and it is another file that tells.
for (;;) {
	my ($largest) = newest_files();
	my ($object) = glob "$repository/objects/*/$largest";
	my $whole = slurp_file($object);
	truncate $object, 100;
	admin_fails(qr/$largest has 100 bytes/, 'verify', '--quick');
	admin_ok('backup');
	last if grep { $_ eq $largest } newest_files();
	unlink $object;
	append_to_file($object, $whole);
}
like(admin_ok('verify'), qr/ 0 problems$/, 'a backup mends what is of the wrong size');

# ---- Under load, with an archiver --------------------------------------------------------------------------------

# Clients move money; the sum never changes. Each writes down what was acknowledged.
sql(q{CREATE FOREIGN TABLE bank (id int PRIMARY KEY, balance int) SERVER aidb; INSERT INTO bank SELECT i, 100 FROM generate_series(1, 100) i;
	CREATE FOREIGN TABLE done (client int, n int, PRIMARY KEY (client, n)) SERVER aidb});
my $script = "$temporary/move.sql";
append_to_file($script, <<'SQL');
\set a random(1, 100)
\set b random(1, 100)
BEGIN;
UPDATE bank SET balance = balance - 1 WHERE id = least(:a, :b);
UPDATE bank SET balance = balance + 1 WHERE id = greatest(:a, :b);
INSERT INTO done SELECT :client_id, coalesce(max(n), 0) + 1 FROM done WHERE client = :client_id;
COMMIT;
SQL
my $archiver_log = "$PostgreSQL::Test::Utils::log_path/archiver.log";
my $archiver;

sub start_archiver {
	$archiver = IPC::Run::start([ './aidb-admin', "--conninfo=$conninfo", "--repo=$repository", 'archive', '--every=1' ], '<', \undef, '>>', $archiver_log, '2>&1');
	return;
}

start_archiver();
my $load = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-h', $node->host, '-p', $node->port, '-c', 4, '-T', 12, '-f', $script, 'postgres' ],
	'<', \undef, '>', '/dev/null', '2>', \my $load_errors);
sleep 1.5;
$archiver->signal('KILL'); # and begins anew
$archiver->finish;
start_archiver();
admin_ok('backup');
my $acknowledged = sql('SELECT count(*) FROM done');
admin_ok('point', 'under load');
my $counted = sql('SELECT count(*) FROM done');
sleep 2.5;
$archiver->signal('TERM');
ok($archiver->finish, 'the archiver ends in good order');
like(slurp_file($archiver_log), qr/archived up to commit \d+/, 'and has told what it did');
ok($load->finish, 'the load went through') or diag($load_errors);
admin_ok('archive', '--once');
$server = AidbNode->promised('loaded');
admin_ok('restore', $server->data_dir, @before, '--to-point=under load');
$server->start_promised;
is($server->safe_psql('postgres', 'SELECT sum(balance) FROM bank'), '10000', 'a state between transactions');
my $there = $server->safe_psql('postgres', 'SELECT count(*) FROM done');
ok($there >= $acknowledged && $there <= $counted, "all that was acknowledged before the point: $acknowledged <= $there <= $counted");
is($server->safe_psql('postgres', 'SELECT count(*) FROM (SELECT client FROM done GROUP BY client HAVING count(*) <> max(n)) x'), '0', 'without gaps');
$server->stop;
$server = AidbNode->promised('all');
admin_ok('restore', $server->data_dir, @before);
$server->start_promised;
is($server->safe_psql('postgres', 'SELECT count(*), sum(n) FROM done'), sql('SELECT count(*), sum(n) FROM done'), 'and to the latest state, all');
$server->stop;

# ---- A gap -------------------------------------------------------------------------------------------------------

sql(q{SELECT aidb.stream_drop('archive'); INSERT INTO account VALUES (-10, 'in the gap')});
admin_ok('archive', '--once');
like($output, qr/the server has not kept its log from commit \d+ to \d+/, 'a gap is noticed');
like($output, qr/^.*backup \w+: \d+ files$/m, 'and a new backup taken');
$at_last = sql($contents);
like(admin_ok('verify'), qr/ 0 problems$/, 'all backups can be restored');
restore($at_last, @before)->stop;

# ---- Broken off --------------------------------------------------------------------------------------------------

# Slowly, so that it is in the midst of it.
sql(q{INSERT INTO account SELECT i, md5(i::text) FROM generate_series(200000, 300000) i});
my $slow = IPC::Run::start([ './aidb-admin', "--conninfo=$conninfo", "--repo=$repository", 'backup', '--rate=1' ], '<', \undef, '>', \my $said, '2>&1');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM aidb.backup_files()}) or die;
admin_fails(qr/another session takes a backup|somebody is at it/, 'backup');
admin_fails(qr/somebody is at it/, 'expire', '--keep-backups=1');
sleep 0.3;
$slow->signal('KILL');
$slow->finish;
my $labels = () = glob "$repository/backups/*";
admin_fails(qr/somebody is at it.*remove that object/s, 'expire', '--keep-backups=1');
unlink glob "$repository/locks/*";
like(admin_ok('verify'), qr/ 0 problems$/, 'a backup that was killed leaves nothing half-visible');
admin_ok('backup');
is(scalar(() = glob "$repository/backups/*"), $labels + 1, 'the next one is taken');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_ls_dir(current_setting(\'data_directory\') || \'/aidb\') d WHERE d LIKE \'pgsql_tmp%\''), '0', 'and leaves no checkpoint');

my $begin = time;
sql(q{UPDATE account SET v = md5(v) WHERE id > 200000});
admin_ok('backup', '--rate=2');
cmp_ok(time - $begin, '>', 0.8, 'a rate is kept');

# ---- Retention ---------------------------------------------------------------------------------------------------

my $before = () = glob "$repository/objects/*/*";
like(admin_ok('expire', '--keep-backups=1', '--dry-run'), qr/ would go$/, 'what would be removed');
is(scalar(() = glob "$repository/objects/*/*"), $before, 'is still there');
like(admin_ok('expire', '--keep-backups=1'), qr/ are gone$/, 'and then is removed');
cmp_ok(scalar(() = glob "$repository/objects/*/*"), '<', $before, 'with its files');
is(scalar(() = glob "$repository/backups/*"), 1, 'one backup is left');
like(admin_ok('verify'), qr/^1 backups, .*\(0 of them not needed by any\).* 0 problems$/, 'with all that it needs');
restore(sql($contents), @before)->stop;

done_testing();
