# Backups in an S3-compatible service, a real one, with everything that goes wrong on the way there: nothing is ever half-visible, and what may
# pass is tried again.
use strict;
use warnings;
use AidbNode;
use AidbProxy;
use AidbS3;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $s3 = AidbS3->start('bucket', 'other');
my $proxy = AidbProxy->start($s3->address);
my $node = AidbNode->launch('source');
my $conninfo = $node->conninfo;
my $temporary = PostgreSQL::Test::Utils::tempdir();
my %settings = $s3->environment($proxy->address);
my ($output, $errors);

sub start_admin {
	my (@words) = @_;
	local %ENV = (%ENV, %settings);
	($output, $errors) = ('', '');
	return IPC::Run::start([ './aidb-admin', "--conninfo=$conninfo", '--repo=s3://bucket/app/one', @words ], '<', \undef, '>', \$output, '2>', \$errors);
}

sub admin { return start_admin(@_)->finish }

sub admin_ok {
	my (@words) = @_;
	ok(admin(@words), "aidb-admin @words") or diag("$output$errors");
	return $output;
}

sub admin_fails {
	my ($expected, @words) = @_;
	ok(!admin(@words), "refused: aidb-admin @words");
	like($errors, $expected, 'it says why');
	unlike($output . $errors, qr/testing/, 'and keeps the secret');
	return;
}

sub sql { return $node->safe_psql('postgres', $_[0]) }

my $changes = 0;

# More than a part of what a proxy sees at a time, new each time.
sub change {
	$changes++;
	sql("INSERT INTO t SELECT $changes * 1000000 + i, md5(random()::text) FROM generate_series(1, 20000) i");
	return;
}

my $contents = q{SELECT count(*), md5(string_agg(id || v, ' ' ORDER BY id)) FROM t};
my $restored = 0;

sub same_restored {
	my $server = AidbNode->promised('restored' . ++$restored);
	admin_ok('restore', $server->data_dir);
	$server->start_promised;
	is($server->safe_psql('postgres', $contents), sql($contents), 'the same is there');
	$server->stop;
	return;
}

# ---- The service itself ------------------------------------------------------------------------------------------

{
	local %ENV = (%ENV, $s3->environment, AIDB_TEST_STORAGE => 's3://other/contract');
	my $log = "$PostgreSQL::Test::Utils::log_path/storage.log";
	ok(IPC::Run::run([ './test_storage' ], '>', $log, '2>&1'), 'what a storage promises, also of large objects') or diag(slurp_file($log));
}

# ---- All is well -------------------------------------------------------------------------------------------------

sql('CREATE FOREIGN TABLE t (id bigint PRIMARY KEY, v text) SERVER aidb');
change();
like(admin_ok('backup'), qr{is in s3://bucket/app/one}, 'a backup');
change();
admin_ok('backup');
like(admin_ok('info'), qr/^log of store/m, 'info');
like(admin_ok('verify'), qr/^2 backups, .* 0 problems$/, 'verify');
same_restored();
like(admin_ok('expire', '--keep-backups=1'), qr/^1 backups/m, 'expire');
same_restored();

# ---- Refused -----------------------------------------------------------------------------------------------------

{
	local $settings{AWS_SECRET_ACCESS_KEY} = 'wrong';
	admin_fails(qr/the service refuses .*SignatureDoesNotMatch.*check the credentials/, 'backup');
	admin_fails(qr/the service refuses/, 'restore', "$temporary/none");
	ok(!-e "$temporary/none", 'nothing was made');
}
{
	local @settings{qw(AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY HOME)} = ('', '', $temporary);
	admin_fails(qr/no credentials for S3: set AWS_ACCESS_KEY_ID/, 'info');
	mkdir "$temporary/.aws";
	append_to_file("$temporary/.aws/credentials", "[default]\naws_access_key_id = aidb:test\naws_secret_access_key = testing\n");
	admin_ok('info');
}
admin_fails(qr/no such bucket; make it first/, 'info', '--repo=s3://nowhere');
{
	local $settings{AWS_ENDPOINT_URL} = 'http://127.0.0.1:1';
	my $begin = time;
	admin_fails(qr/Couldn't connect to server/, 'info');
	cmp_ok(time - $begin, '>', 2, 'after several attempts');
}

# ---- On the way --------------------------------------------------------------------------------------------------

for my $fault ([ delay => 20 ], ['flip'], ['truncate'], ['half']) {
	change();
	$proxy->set(@$fault);
	admin_ok('backup');
	$proxy->set('pass');
	like(admin_ok('verify'), qr/ 0 problems$/, "with fault $fault->[0] on the way, it is whole");
}
same_restored();

# Connections are cut all the time.
change();
{
	my $run = start_admin('backup', '--rate=2');
	for (1 .. 8) {
		sleep 0.1;
		$proxy->set('cut');
	}
	$proxy->set('pass');
	ok($run->finish, 'a backup goes through while connections are cut') or diag("$output$errors");
	like(admin_ok('verify'), qr/ 0 problems$/, 'and is whole');
}

# What keeps the objects is away: the service answers 503.
change();
{
	$s3->break;
	my $run = start_admin('backup');
	sleep 2.5;
	ok($run->pumpable, 'it tries again');
	$s3->mend;
	ok($run->finish, 'and is done when the service is well again') or diag("$output$errors");
	like(admin_ok('verify'), qr/ 0 problems$/, 'and is whole');
}
$s3->break;
admin_fails(qr/failed with 503/, 'backup');
$s3->mend;
my $backups = () = admin_ok('info') =~ /^backup /mg;

# Killed in the middle.
change();
{
	my $run = start_admin('backup', '--rate=1');
	sleep 0.4;
	$run->signal('KILL');
	$run->finish;
	is(scalar(() = admin_ok('info') =~ /^backup /mg), $backups, 'a backup that was killed is none');
	like(admin_ok('verify'), qr/ 0 problems$/, 'and harms nothing');
}

# The archive goes on over all of it, without a gap.
{
	my $run = start_admin('archive', '--every=1');
	for my $fault (['cut'], ['truncate'], ['pass']) {
		change();
		sleep 1.2;
		$proxy->set(@$fault);
	}
	sleep 1.2;
	$run->signal('TERM');
	$run->finish;
	admin_ok('archive', '--once');
	is(scalar(() = admin_ok('info') =~ /^log of store/mg), 1, 'the log has no gap');
	same_restored();
}

done_testing();
