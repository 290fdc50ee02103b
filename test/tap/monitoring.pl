# What monitoring/ has, on a real cluster read by a real Prometheus: the rules are right, every expression of the dashboards gives
# something, and alerts come when there is reason to.
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

my $catalog = AidbNode->launch('catalog');
my %node = map { $_ => AidbNode->launch($_, conf => 'aidb.row_cache = 4MB') } qw(a b c);
my $prometheus;

END { $prometheus->kill_kill if $prometheus }

sub ask { return $catalog->safe_psql('postgres', $_[0]) }

# ---- The files ------------------------------------------------------------------------------------------------------

for my $check ([ 'check', 'rules', 'monitoring/alerts.yml' ], [ 'test', 'rules', 'monitoring/alerts_test.yml' ], [ 'check', 'config', 'monitoring/prometheus.yml' ]) {
	my $output;
	ok(IPC::Run::run([ 'promtool', @$check ], '>', \$output, '2>&1'), "promtool @$check") or diag($output);
}
my $rules = slurp_file('monitoring/alerts.yml');
my $tests = slurp_file('monitoring/alerts_test.yml');
is(join(' ', grep { $tests !~ /alertname: $_\b[^\n]*\n\s+exp_alerts/ } $rules =~ /alert: (\w+)/g), '', 'each alert is tested');

# ---- A cluster --------------------------------------------------------------------------------------------------------

ask("SELECT aidb.add_node('$_', '" . $node{$_}->conninfo . "')") for sort keys %node;
ask("SELECT aidb.add_group('one', 'a'); SELECT aidb.add_replica('one', 'b'); SELECT aidb.add_replica('one', 'c', 'cache')");
my $daemon = AidbDaemon->coordinator($catalog);
$catalog->poll_query_until('postgres', "SELECT in_sync = 'b' FROM aidb.groups") or die;
$node{c}->poll_query_until('postgres', "SELECT role = 'cache' AND state = 'streaming' FROM aidb.node_status()") or die;
ask("CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb_cluster; INSERT INTO item SELECT i, 'v' FROM generate_series(1, 5000) i");
$node{a}->safe_psql('postgres', 'SELECT aidb.flush()');
ask("SELECT aidb.set_autoscale('one', 0, 2, 1000000, dry_run => true); SELECT count(*) FROM item WHERE id < 100");
$catalog->wait_for('SELECT looked_at IS NOT NULL FROM aidb.autoscale', 't');
my $backup_output;
ok(IPC::Run::run([ './aidb-admin', '--conninfo=' . $catalog->conninfo, '--group=one', '--repo=' . PostgreSQL::Test::Utils::tempdir() . '/repository', 'backup' ],
		'<', \undef, '>', \$backup_output, '2>&1'), 'a backup of a group') or diag($backup_output);

my %port = map { $_ => AidbDaemon->exporter($node{$_}->conninfo)->port } sort keys %node;
$port{catalog} = AidbDaemon->exporter($catalog->conninfo, '--cluster')->port;
my $told = HTTP::Tiny->new->get("http://127.0.0.1:$port{catalog}/metrics")->{content};
for my $line ('aidb_cluster_node_up{node="a",group="one",role="primary"} 1', 'aidb_cluster_node_up{node="c",group="one",role="cache"} 1',
	'aidb_cluster_group_in_sync{group="one"} 1', 'aidb_cluster_group_slots{group="one"} 256', 'aidb_cluster_slots_leaving{group="one"} 0', 'aidb_cluster_moves_total 0',
	'aidb_cluster_move_age_seconds 0', 'aidb_autoscale_hit_ratio{group="one"} 0', 'aidb_router_moved_total 0') {
	like($told, qr/^\Q$line\E$/m, $line);
}
like($told, qr/^aidb_router_duration_seconds_count\{target="primary"\} [1-9]\d*$/m, 'round trips of the router');
like($told, qr/^aidb_router_statements_total [1-9]\d*$/m, 'and its statements');
my $checked;
ok(IPC::Run::run([ 'promtool', 'check', 'metrics' ], '<', \$told, '>', \$checked, '2>&1'), 'promtool check metrics') or diag($checked);

# ---- Prometheus -------------------------------------------------------------------------------------------------------

my $place = PostgreSQL::Test::Utils::tempdir();
my $web = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
# The alerts as they are, but sooner: a test has no minute to wait.
append_to_file("$place/alerts.yml", $rules =~ s/for: \d+[sm]/for: 0s/gr =~ s/< -10$/< -1/mr);
append_to_file("$place/prometheus.yml", <<"YAML");
global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [ alerts.yml ]
scrape_configs: [ { job_name: aidb, static_configs: [ { targets: [ @{[ join ', ', map { "'127.0.0.1:$_'" } values %port ]} ] } ] } ]
YAML
$prometheus = IPC::Run::start([ 'prometheus', "--config.file=$place/prometheus.yml", "--storage.tsdb.path=$place/data", '--web.listen-address=' . $web =~ s|http://||r ],
	'<', \undef, '>', $PostgreSQL::Test::Utils::log_path . '/prometheus.log', '2>&1');

sub query {
	my ($expression) = @_;
	my $response = HTTP::Tiny->new(timeout => 10)->post_form("$web/api/v1/query", { query => $expression });
	return $response->{success} ? decode_json($response->{content})->{data}{result} : [];
}

# Waits until the expression gives something, or (none) nothing any more.
sub gives {
	my ($expression, $none) = @_;
	my $until = time + 60;
	while (time < $until) {
		return 1 if !!@{ query($expression) } ne !!$none;
		sleep 0.2;
	}
	return 0;
}

ok(gives('count(aidb_up == 1) == 4'), 'a Prometheus reads all four');
for my $file (sort glob 'monitoring/dashboards/*.json') {
	my $dashboard = decode_json(slurp_file($file));
	my @expressions = map { $_->{expr} } map { @{ $_->{targets} // [] } } @{ $dashboard->{panels} };
	cmp_ok(scalar @expressions, '>', 10, "$file has expressions");
	for my $expression (@expressions) {
		# so that there is something to give rates of
		ask("UPDATE item SET v = v WHERE id = 7; SET aidb.read_from = 'cache'; SELECT v FROM item WHERE id = 7");
		my $asked = $expression =~ s/\$__rate_interval/1m/gr =~ s/\$instance/.*/gr;
		ok(gives($asked), $asked);
	}
	my @places = map { join ',', @{ $_->{gridPos} }{qw(x y)} } @{ $dashboard->{panels} };
	my %seen;
	is(scalar(grep { $seen{$_}++ } @places), 0, 'no panel lies on another');
}
my %known = map { $_ => 1 } @{ decode_json(HTTP::Tiny->new->get("$web/api/v1/label/__name__/values")->{content})->{data} };
is(join(' ', sort grep { !$known{$_} } map { /\b(aidb_\w+)/g } $rules =~ /expr: (.*)/g), '', 'alerts are about metrics that there are');

# ---- Alerts -------------------------------------------------------------------------------------------------------------

ok(gives('ALERTS{alertstate="firing"}', 'none'), 'all is well');
$node{b}->stop('immediate');
ok(gives('ALERTS{alertname="AidbServerDown", alertstate="firing"}'), 'a server that is down');
ok(gives('ALERTS{alertname="AidbNodeDown", node="b", alertstate="firing"}'), 'a node that is');
ok(gives('ALERTS{alertname="AidbNoStandbyInSync", group="one", alertstate="firing"}'), 'a group with no standby in sync');
$node{b}->start;
ok(gives('ALERTS{alertstate="firing"}', 'none'), 'all is well again');
$daemon->kill;
ok(gives('ALERTS{alertname="AidbNoCoordinator", alertstate="firing"}'), 'no coordinator');
done_testing();
