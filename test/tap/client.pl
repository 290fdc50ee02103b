# The client library, used by test/client as a program would: what it gives is what was put, on keys of any bytes, whichever nodes it
# reads from; SQL and it see each other's rows; it goes on through a failover without losing what was acknowledged; and nodes that
# hang or are away are told of in time.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_, conf => $_ eq 'c' ? 'aidb.row_cache = 8MB' : '') } qw(a b c d);

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

# The program with these words, on key space `store`: its exit status and what it printed.
sub client {
	my (@words) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ './client', $catalog->conninfo, 'store', @words ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8) . "|$out$err";
}

# ---- A cluster: a group with a standby and a caching read node, and a group of one -----------------------------------

like(client('health'), qr/^1\|3: could not read the cluster's catalog: the cluster has no group; see aidb\.add_group/, 'a cluster has a group');
ask("SELECT aidb.add_node('$_', '" . $node{$_}->conninfo . "')") for qw(a b c d);
$node{d}->safe_psql('postgres', 'SELECT aidb.become_primary()');
ask(<<'SQL');
SELECT aidb.add_group('two', 'd', false);
SELECT aidb.add_group('one', 'a');
SELECT aidb.add_replica('one', 'b');
SELECT aidb.add_replica('one', 'c', 'cache');
SQL
my $daemon = AidbDaemon->coordinator($catalog);
$catalog->wait_for("SELECT in_sync FROM aidb.groups WHERE name = 'one'", 'b');
$catalog->wait_for("SELECT count(*) FROM aidb.nodes WHERE state = 'up'", '4');
my $table = '(key bytea, value bytea, PRIMARY KEY (key)) SERVER aidb_cluster';
ask("CREATE FOREIGN TABLE store $table; CREATE SCHEMA \"odd \"\"one\"; CREATE FOREIGN TABLE \"odd \"\"one\".\"it's\" $table");

# ---- Keys and values ----------------------------------------------------------------------------------------------------

is(client('get', 'a'), "0|a none\n", 'no such key');
is(client('put', 'a', '1'), '0|', 'a put');
is(client('get', 'a'), "0|a=1\n", 'a get');
is(client('put', map { ($_, "value of $_") } 'a' .. 'm'), '0|', 'several');
is(client('get', 'b', 'none', 'm', 'b'), "0|b=value of b\nnone none\nm=value of m\nb=value of b\n", 'a get of several');
is(client('put', 'x', '1', 'y', '2', 'x', '3'), '0|', 'a key twice');
is(client('get', 'x', 'y'), "0|x=3\ny=2\n", 'has its last value');
is(client('delete', 'x'), '0|', 'a delete');
is(client('delete', 'x', 'y'), '0|', 'several');
is(client('scan', '', '', 0), join('', '0|', map { "$_=value of $_\n" } 'a' .. 'm'), 'a scan, in order');
is(client('scan', 'c', 'f', 0), "0|c=value of c\nd=value of d\ne=value of e\n", 'of a range');
is(client('scan', 'c', '', 2), "0|c=value of c\nd=value of d\n", 'up to a limit');
is(client('put', '', ''), '0|', 'an empty key');
is(client('get', ''), "0|=\n", 'is a key');
is(client('delete', ''), '0|', 'and can go');
is(ask("SELECT count(*), min(convert_from(value, 'UTF8')) FROM store"), '13|value of a', 'SQL sees them');
ask("SET aidb.multi_group_writes = separately; UPDATE store SET value = 'sql' WHERE key <> 'a'; INSERT INTO store VALUES ('z', 'sql')");
is(client('get', 'a', 'b', 'z'), "0|a=value of a\nb=sql\nz=sql\n", 'and is seen');
my @parts = map { $node{$_}->safe_psql('postgres', 'SELECT count(*) FROM store') } qw(a d);
ok($parts[0] > 0 && $parts[1] > 0 && $parts[0] + $parts[1] == 14, "each group has its part: @parts");
is(client('schema=odd "one', 'health'), "0|two d ok\none a ok\n", 'all answer');
my ($out, $err) = ('', '');
IPC::Run::run([ './client', $catalog->conninfo, "it's", 'schema=odd "one', 'put', 'k', 'v' ], '>', \$out, '2>', \$err);
is($err . ask(q(SELECT convert_from(value, 'UTF8') FROM "odd ""one"."it's")), 'v', 'a name of any kind');
like(client('schema=none', 'get', 'a'), qr/^1\|6: group "(one|two)", node "[ad]": relation "none\.store" does not exist$/, 'a key space that is none');
like(client('connections=5000', 'health'), qr/^1\|2: .*good options/, 'options that are none');

for my $read_from (qw(primary standby cache)) {
	ask('TRUNCATE store');
	is(client("read_from=$read_from", 'model', 7, 600), "0|600 rounds\n", "random operations, read from the $read_from");
}
cmp_ok($node{c}->safe_psql('postgres', "SELECT value FROM aidb.stats() WHERE name = 'row_cache_hits'"), '>', 1000, 'the cache had some of that');
is(ask("SELECT sum(length(value)) % 8 FROM store"), '0', 'SQL can read what is left');

# ---- A primary that dies under load ---------------------------------------------------------------------------------------

for my $read_from (qw(primary cache)) {
	my ($primary, $standby) = split /\|/, ask("SELECT \"primary\", in_sync FROM aidb.groups WHERE name = 'one'");
	ask('TRUNCATE store');
	my ($result, $errors) = ('', '');
	my $load = IPC::Run::start([ './client', $catalog->conninfo, 'store', 'timeout=30000', "read_from=$read_from", 'load', 4, 8 ],
		'<', \undef, '>', \$result, '2>', \$errors);
	$catalog->wait_for('SELECT count(*) > 1000 FROM store', 't');
	$node{$primary}->crash;
	$load->finish;
	like($result . $errors, qr/^(?!0)\d+ rows acknowledged, 0 batches failed$/, "a failover, read from the $read_from");
	is(ask("SELECT \"primary\" FROM aidb.groups WHERE name = 'one'"), $standby, 'there was one');
	$node{$primary}->start;
	$catalog->wait_for("SELECT in_sync FROM aidb.groups WHERE name = 'one'", $primary);
}

# ---- Nodes that hang or are away --------------------------------------------------------------------------------------------

client('put', map { ($_, $_) } 'a' .. 'h');
my $key = $node{d}->safe_psql('postgres', q{SELECT min(encode(key, 'escape')) FROM store WHERE encode(key, 'escape') IN ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')});
my ($in, $out_later, $error_later) = ('', '', '');
my $later = IPC::Run::start([ './client', $catalog->conninfo, 'store', 'timeout=1000', 'retry=0', 'later', $key, 'x' ],
	'<', \$in, '>', \$out_later, '2>', \$error_later);
$later->pump until $out_later =~ /put/;
my @hung = $node{d}->processes;
kill 'STOP', @hung;
my $begin = time;
like(client('timeout=1000', 'get', $key), qr/^1\|3: group "two", node "d": no answer in time$/, 'a node that hangs is told of');
like(client('timeout=1000', 'put', $key, 'new'), qr/^1\|3: group "two", node "d": no answer in time$/, 'also to one who writes');
$in .= "\n";
$later->finish;
is($error_later, "5: group \"two\", node \"d\": no answer in time; the write may have been done or not\n", 'that what was sent may have been done');
like(client('timeout=1000', 'health'), qr/^1\|two d no answer in time\none \w ok\n3: group "two"/, 'and in the health');
cmp_ok(time - $begin, '<', 6, 'in time');
kill 'CONT', @hung;
is(client('put', $key, 'after'), '0|', 'it comes back');
is(client('get', $key), "0|$key=after\n", 'and takes writes');

# A replica that is sick is not asked any more, and asked again when it is well.
sub hits { return $node{c}->safe_psql('postgres', "SELECT value FROM aidb.stats() WHERE name = 'row_cache_hits'") }
@hung = $node{c}->processes;
kill 'STOP', @hung;
is(client('read_from=cache', 'timeout=2000', 'get', 'a'), "0|a=a\n", 'a replica that hangs is given up');
$catalog->wait_for("SELECT state FROM aidb.node WHERE name = 'c'", 'down');
$begin = time;
is(client('read_from=cache', 'timeout=2000', 'get', 'a'), "0|a=a\n", 'then not asked');
cmp_ok(time - $begin, '<', 0.9, 'so it takes no time');
kill 'CONT', @hung;
$catalog->wait_for("SELECT state FROM aidb.node WHERE name = 'c'", 'up');
$node{c}->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()") or die;
my $known = hits();
client('read_from=cache', 'get', 'a') for 1 .. 3;
cmp_ok(hits(), '>', $known, 'and asked again');

$node{c}->stop('immediate');
is(client('read_from=cache', 'get', 'a'), "0|a=a\n", 'without its replica a group is read at the primary');
$node{d}->stop('immediate');
like(client('timeout=500', 'put', $key, 'x'), qr/^1\|3: group "two", node "d": .*(refused|No such file)/, 'a node that is away');
like(client('timeout=500', 'put', map { ($_, 'x') } 'a' .. 'h'), qr/^1\|3: group "two", node "d"/, 'or some of them');
$node{d}->start;
is(client('get', $key), "0|$key=after\n", 'nothing of that was done there');
$catalog->stop('immediate');
like(client('get', 'a'), qr/^1\|3: could not read the cluster's catalog: /, 'without the catalog a client does not begin');
$catalog->start;
ask('CREATE ROLE stranger LOGIN');
IPC::Run::run([ './client', $catalog->conninfo . ' user=stranger', 'store', 'get', 'a' ], '2>', \$err);
like($err, qr/^3: could not read the cluster's catalog: ERROR:  permission denied/, 'nor without the right to read it');
done_testing();
