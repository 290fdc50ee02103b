# aidb_exporter: what it says is what the server says, in Prometheus' format, read by a Prometheus; it says so when the server is away, and
# goes on when that is back.
use strict;
use warnings;
use AidbDaemon;
use AidbNode;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = AidbNode->launch('node');
my $prometheus;
our $port; # of the exporter that is asked

END { $prometheus->kill_kill if $prometheus }

sub ask { return $node->safe_psql('postgres', $_[0]) }

sub fetch { return HTTP::Tiny->new(timeout => 20)->get("http://127.0.0.1:$port$_[0]") }

sub metrics { return fetch('/metrics')->{content} }

sub metric {
	my ($name) = @_;
	return metrics() =~ /^\Q$name\E ([-+.e0-9]+)$/m ? $1 : undef;
}

# ---- The program --------------------------------------------------------------------------------------------------

my ($help, $error) = ('', '');
ok(IPC::Run::run([ './aidb_exporter', '--help' ], '>', \$help), 'it explains itself');
like($help, qr/--conninfo=CONNINFO.*EXECUTE on functions/s, 'with what it needs');
IPC::Run::run([ './aidb_exporter' ], '2>', \$error);
like($error, qr/give --conninfo/, 'it needs a server');
IPC::Run::run([ './aidb_exporter', '--conninfo=x', "--listen=$_" ], '2>', \$error), like($error, qr/give an IPv4 address and a port/, "not $_")
  for 'nowhere', '127.0.0.1', '127.0.0.1:x', '127.0.0.1:70000', '300.0.0.1:1';
my $exporter = AidbDaemon->exporter($node->conninfo);
$port = $exporter->port;

# ---- What it says -------------------------------------------------------------------------------------------------

ask("CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb; INSERT INTO item SELECT i, 'v' FROM generate_series(1, 1000) i; SELECT aidb.flush()");
is(metric('aidb_up'), '1', 'the server is up');
for my $of ([ flushes => 'aidb_flush_runs_total' ], [ memory_bytes => 'aidb_memory_arena_bytes' ], [ log_bytes => 'aidb_log_written_bytes_total' ],
	[ level0_files => 'aidb_level_files{level="0"}' ], [ sequence => 'aidb_engine_sequence' ], [ writes_off => 'aidb_engine_writes_off' ]) {
	is(metric($of->[1]), ask("SELECT value FROM aidb.stats() WHERE name = '$of->[0]'"), "$of->[0] is $of->[1]");
}
my $before = metric('aidb_engine_commits_total');
ask("INSERT INTO item VALUES (1000 + $_, 'v')") for 1 .. 5;
is(metric('aidb_engine_commits_total') - $before, 5, 'commits are counted');
like(metrics(), qr/^aidb_node_info\{role="\w+",state="\w+"\} 1$/m, 'what it is in its group');
my $names = ask("SELECT string_agg(name, ' ') FROM aidb.stats() WHERE name NOT LIKE 'level%' AND name <> 'asynchronous_commits'");
my @told = metrics() =~ /^(aidb_(?:engine|log|memory|flush|compaction|block_cache|filter|row_cache)_\w+) /mg;
my ($flushes) = metrics() =~ /^aidb_engine_duration_seconds_bucket\{op="flush",le="\+Inf"\} (\d+)$/m;
is($flushes, metric('aidb_flush_runs_total'), 'how long flushes took');
like(metrics(), qr/^aidb_engine_duration_seconds_count\{op="commit"\} [1-9]/m, 'and commits');
is(scalar @told, scalar(split / /, $names), 'every number is told') or diag("$names\n@told");
is(fetch('/')->{status}, 200, 'there is a page');
is(fetch('/other')->{status}, 404, 'and not another');
is(HTTP::Tiny->new->post("http://127.0.0.1:$port/metrics")->{status}, 405, 'it is for reading');

# A primary knows its replicas, by names of any kind; a replica how far it is.
my $replica = AidbNode->launch('replica', conf => 'aidb.row_cache = 4MB');
ask('SELECT aidb.become_primary()');
$replica->safe_psql('postgres', "SELECT aidb.follow('" . $node->conninfo . "', 'rep_1', 'cache')");
$replica->poll_query_until('postgres', "SELECT state = 'streaming' FROM aidb.node_status()") or die;
like(metrics(), qr/^aidb_node_info\{role="primary",state="\w+"\} 1\n(?s:.*)^aidb_node_epoch 1$/m, 'what a primary is');
like(metrics(), qr/^aidb_stream_retained_bytes\{slot="rep_1"\} \d+$/m, 'for whom it keeps the log');
unlike(metrics(), qr/^aidb_backup_/m, 'no backup was taken');
my $taken;
ok(IPC::Run::run([ './aidb-admin', '--conninfo=' . $node->conninfo, '--repo=' . PostgreSQL::Test::Utils::tempdir() . '/repository', 'backup' ], '<', \undef, '>', \$taken, '2>&1'), 'one is taken') or diag($taken);
like(metrics(), qr/^aidb_backup_last_timestamp_seconds \d+/m, 'when that was');
{
	local $port = AidbDaemon->exporter($replica->conninfo)->port;
	like(metrics(), qr/^aidb_node_info\{role="cache",state="streaming"\} 1$/m, 'what a replica is');
	is(metric('aidb_replication_lag_commits'), '0', 'how far it is behind');
	$replica->safe_psql('postgres', 'SELECT v FROM item WHERE id = 3') for 1 .. 3;
	ask('CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher');
	for my $view (qw(commit log level compaction cache duration replication)) {
		my ($rc, $rows, $refused) = $node->psql('postgres', "SELECT count(*) > 0 FROM aidb.stat_$view", extra_params => [ '-U', 'watcher' ]);
		is($rows, 't', "view stat_$view") or diag($refused);
	}
	is(ask(q{SELECT count > 0 AND mean_ms > 0 AND half_below_ms <= p99_below_ms AND p99_below_ms <= all_below_ms FROM aidb.stat_duration WHERE operation = 'log_sync'}), 't', 'durations make sense');
	is(ask('SELECT sum(files) > 0 AND sum(bytes) > 0 AND count(*) = 7 FROM aidb.stat_level'), 't', 'levels, too');
	is(metric('aidb_row_cache_hits_total') . '|' . metric('aidb_row_cache_misses_total'), '2|1', 'and what it remembers');
	ask('CREATE ROLE stranger LOGIN');
	$port = AidbDaemon->exporter($node->conninfo . ' user=stranger')->port;
	like(metrics(), qr/^aidb_up 0\n# ERROR:  permission denied/m, 'without the right to ask there is nothing to be told');
}

my $tool = IPC::Run::run([ 'promtool', 'check', 'metrics' ], '<', \metrics(), '>', \my $checked, '2>&1');
ok($tool, 'promtool finds nothing wrong') or diag($checked);
is($checked, '', 'and nothing to be better');

# ---- Prometheus ------------------------------------------------------------------------------------------------------

my $place = PostgreSQL::Test::Utils::tempdir();
my $web = PostgreSQL::Test::Cluster::get_free_port();
append_to_file("$place/prometheus.yml", <<"YAML");
global: { scrape_interval: 200ms, scrape_timeout: 200ms }
scrape_configs: [ { job_name: aidb, static_configs: [ { targets: [ '127.0.0.1:$port' ] } ] } ]
YAML
$prometheus = IPC::Run::start([ 'prometheus', "--config.file=$place/prometheus.yml", "--storage.tsdb.path=$place/data", "--web.listen-address=127.0.0.1:$web" ],
	'<', \undef, '>', "$place/prometheus.log", '2>&1');

# The value of an expression there, when it has become this.
sub wait_for_value {
	my ($expression, $expected) = @_;
	my $until = time + 60;
	my $value = 'nothing';
	while (time < $until) {
		my $response = HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$web/api/v1/query?query=" . HTTP::Tiny->new->_uri_escape($expression));
		my $result = $response->{success} ? decode_json($response->{content})->{data}{result} : [];
		$value = $result->[0]{value}[1] // 'nothing';
		return $value if $value eq $expected;
		sleep 0.1;
	}
	return $value;
}

is(wait_for_value('aidb_up', '1'), '1', 'a Prometheus reads it');
is(wait_for_value('sum(aidb_level_files)', ask("SELECT sum(value) FROM aidb.stats() WHERE name LIKE 'level%files'")), ask("SELECT sum(value) FROM aidb.stats() WHERE name LIKE 'level%files'"), 'with levels as labels');

# ---- A server that is away ----------------------------------------------------------------------------------------------

$node->stop('immediate');
like(metrics(), qr/^aidb_up 0\n# .*(refused|No such file)/m, 'it says when the server is away, and why');
is(wait_for_value('aidb_up', '0'), '0', 'which Prometheus sees');
$node->start;
is(metric('aidb_up'), '1', 'and when it is back');
ok($exporter->stop, 'it ends in good order');
done_testing();
