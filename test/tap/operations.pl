# What an operator uses: aidb-admin doctor, backups of a whole cluster and of its catalog, services.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use IPC::Run;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;

my $catalog = AidbNode->launch('catalog', fsync => 'on');
my %node = map { $_ => AidbNode->launch($_, fsync => 'on') } qw(a b c);
my $temporary = PostgreSQL::Test::Utils::tempdir();
my $repository = "$temporary/repository";
my ($output, $errors);

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

sub admin {
	my ($server, @words) = @_;
	return IPC::Run::run([ './aidb-admin', '--conninfo=' . $server->conninfo, @words ], '<', \undef, '>', \$output, '2>', \$errors);
}

sub admin_ok {
	my (@words) = @_;
	ok(admin(@words), "aidb-admin @words[1 .. $#words]") or diag("$output$errors");
	return $output;
}

# What the doctor finds that is not well: check and level.
sub findings {
	my ($server) = @_;
	admin($server, 'doctor', '--json');
	return join ' ', map { ($_->{where} ? "$_->{where}: " : '') . "$_->{check} $_->{level}" } grep { $_->{level} ne 'ok' } @{ decode_json($output) };
}

# ---- A server ----------------------------------------------------------------------------------------------------

like(admin_ok($node{c}, 'doctor'), qr/^ok       PostgreSQL: version 15.*^ok       store: ok\n.*^warning  backup: none was ever taken\n         aidb-admin backup.*^0 problems, 1 warnings$/ms, 'a server that is well, but for its backups');
$node{c}->safe_psql('postgres', 'SELECT aidb.become_primary()');
admin_ok($node{c}, 'backup', "--repo=$temporary/alone");
is(findings($node{c}), '', 'and then well in all');
$node{c}->safe_psql('postgres', q{UPDATE aidb.backup SET finished = now() - interval '3 days'; ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf();
	SELECT aidb.stream_open('archive2')});
$node{c}->poll_query_until('postgres', q{SELECT current_setting('synchronous_commit') = 'off'}) or die;
is(findings($node{c}), 'durability warning backup warning', 'what could be better is found');
$node{c}->safe_psql('postgres', 'CREATE DATABASE bare; ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf()');
ok(!IPC::Run::run([ './aidb-admin', '--conninfo=host=' . $node{c}->host . ' port=' . $node{c}->port . ' dbname=bare', 'doctor' ], '<', \undef, '>', \$output, '2>', \$errors), 'a database without the extension is a problem');
like($output, qr/^problem  extension: it is not in this database\n +CREATE EXTENSION aidb, or connect/m, 'which is named');
ok(!IPC::Run::run([ './aidb-admin', '--conninfo=host=/nowhere', 'doctor' ], '<', \undef, '>', \$output, '2>', \$errors), 'so is a server that does not answer');
like($output, qr/^problem  connection: /m, 'which is named, too');
$node{c}->stop;

# ---- A cluster ---------------------------------------------------------------------------------------------------

ask("SELECT aidb.add_node('$_', '" . $node{$_}->conninfo . "'), aidb.add_group('group_$_', '$_', synchronous => false)") for qw(a b);
my $daemon = AidbDaemon->coordinator($catalog);
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE state = 'up'}, 2);
$catalog->wait_for(q{SELECT count(*) FROM aidb.coordinator WHERE until > clock_timestamp()}, 1);
ask(q{CREATE FOREIGN TABLE item (tenant int, id bigint, v text COLLATE "C" DEFAULT 'none', PRIMARY KEY (tenant, id), CHECK (id > 0)) SERVER aidb_cluster OPTIONS (shard_key 'tenant');
	SET aidb.multi_group_writes = separately; INSERT INTO item SELECT i % 100, i FROM generate_series(1, 1000) i});
is(findings($catalog), 'node a: backup warning node b: backup warning', 'the doctor sees to a cluster and each of its nodes');
like(admin_ok($catalog, 'cluster', 'backup', "--repo=$repository"), qr/^group group_a\nbackup .*^group group_b\nbackup .*^the catalog is catalog\/\w+\.sql$/ms, 'a backup of all groups');
is(findings($catalog), '', 'and all is well');
my $at_point = ask('SELECT count(*), sum(id) FROM item');
like(admin_ok($catalog, 'cluster', 'point', 'all', "--repo=$repository"), qr/^group group_a: restore point all is commit \d+\ngroup group_b: restore point all is commit \d+$/, 'a restore point of all');
ask('SET aidb.multi_group_writes = separately; DELETE FROM item WHERE id % 2 = 0');
admin_ok($catalog, 'archive', '--once', "--group=group_$_", "--repo=$repository") for qw(a b);
like(admin_ok($catalog, 'cluster', 'verify', "--repo=$repository"), qr/(?:0 problems\n.*){2}/s, 'both repositories are well');
like(admin_ok($catalog, 'cluster', 'info', "--repo=$repository"), qr/(?:restore point all.*){2}/s, 'and have the point');
$node{b}->stop('immediate');
$catalog->wait_for(q{SELECT count(*) FROM aidb.nodes WHERE state = 'up'}, 1);
like(findings($catalog), qr/cluster: nodes problem .*node b: connection problem/, 'a node that is down is found');

# All machines are lost: the groups and the catalog come back from the repository.
ok($daemon->stop, 'the coordinator stops');
$_->stop('immediate') for $catalog, $node{a};
for my $name (qw(a b)) {
	my $server = AidbNode->promised("new_$name");
	admin_ok($catalog, 'restore', $server->data_dir, "--group=group_$name", "--repo=$repository", '--to-point=all');
	$server->start_promised;
	$node{$name} = $server;
}
my $new = AidbNode->launch('new_catalog');
like(admin_ok($new, 'cluster', 'restore-catalog', "--repo=$repository"), qr/^the catalog is that of catalog\/\w+\.sql$/, 'the catalog');
for my $name (qw(a b)) {
	$node{$name}->safe_psql('postgres', 'SELECT aidb.become_primary(1)');
	$new->safe_psql('postgres', "UPDATE aidb.node SET conninfo = '" . $node{$name}->conninfo . "' WHERE name = '$name'");
}
is($new->safe_psql('postgres', 'SELECT count(*), sum(id) FROM item'), $at_point, 'the cluster as it was at the point');
$new->safe_psql('postgres', q{INSERT INTO item (tenant, id) VALUES (5, 5000); CREATE FOREIGN TABLE other (id int PRIMARY KEY) SERVER aidb_cluster; INSERT INTO other VALUES (1)});
is($new->safe_psql('postgres', 'SELECT v FROM item WHERE tenant = 5 AND id = 5000; SELECT * FROM other'), "none\n1", 'and it goes on');

# ---- Services ----------------------------------------------------------------------------------------------------

for my $unit (glob 'systemd/*.service.in') {
	my $text = slurp_file($unit);
	ok($text =~ /^\[Unit\]\nDescription=.*^\[Service\]\nType=\w+\n/ms && $text =~ /^User=postgres$/m, "$unit is a service");
	for my $start ($text =~ /^ExecStart=\@PREFIX\@\/bin\/(.*)$/mg) {
		my ($program, @words) = split / /, $start;
		IPC::Run::run([ "./$program", '--help' ], '>', \my $help);
		ok(!(grep { my ($word) = /^(--[a-z-]+|[a-z]+)/; defined $word && $help !~ /\Q$word\E/ } @words), "$program knows: @words");
	}
}

done_testing();
