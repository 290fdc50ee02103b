# Wrong settings, damaged files, a full disk, a directory that cannot be written: each has an error that says what is
# wrong, nothing else stops working, and when the cause is gone everything is there.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use Math::BigInt;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AidbNode->launch('main', memory => '16MB', conf => 'shared_buffers = 4MB');
my $store = $node->data_dir . '/aidb';

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE heap (n int);
CREATE FOREIGN TABLE t (id int PRIMARY KEY, v text) SERVER aidb;
SELECT aidb.put('space', 'k', 'v');
INSERT INTO heap SELECT generate_series(1, 100);
INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i;
SQL

# ---- What is asked ----------------------------------------------------------------------------------------------

my $everything = "SELECT (SELECT count(*) FROM heap), count(*), md5(string_agg(v, ',' ORDER BY id)),
	(SELECT count(*) FROM aidb.scan('space')) FROM t";

my $limit_s = 30; # of a statement that is to be refused

# The whole text of an error.
sub refusal {
	my ($on, $sql) = @_;
	my ($status, $output, $error) = $on->psql('postgres', "\\set VERBOSITY verbose\n$sql", timeout => $limit_s);
	return $status == 0 ? "no error, but: $output" : $error;
}

# A statement fails with this SQLSTATE, and the detail is like this; with a hint.
sub refused {
	my ($on, $sql, $sqlstate, $detail, $name) = @_;
	my $error = refusal($on, $sql);
	like($error, qr/ERROR:  $sqlstate: .*^DETAIL:  [^\n]*$detail.*^HINT:  /ms, $name);
	return;
}

sub heap_works {
	my ($on, $name) = @_;
	is($on->safe_psql('postgres', 'BEGIN; INSERT INTO heap VALUES (0); SELECT count(*) > 100 FROM heap; ROLLBACK'), 't',
		"$name: heap tables work");
	return;
}

# The store cannot be opened.
sub store_refused {
	my ($name, $sqlstate, $detail) = @_;
	my %statements = (
		'a look-up' => 'SELECT * FROM t WHERE id = 1',
		'an INSERT' => 'INSERT INTO t VALUES (0)',
		'a key space' => "SELECT aidb.get('space', 'k')",
		'a new table' => 'BEGIN; CREATE FOREIGN TABLE new (id int PRIMARY KEY) SERVER aidb; ROLLBACK');
	for my $what (sort keys %statements) {
		refused($node, $statements{$what}, $sqlstate, $detail, "$name: $what is refused, with the reason");
	}
	like($node->safe_psql('postgres', 'SELECT status, detail FROM aidb.health()'), qr/^unavailable\|.*$detail/,
		"$name: the health says so");
	heap_works($node, $name);
	return;
}

# ---- Files -------------------------------------------------------------------------------------------------------

sub read_binary {
	my ($path) = @_;
	open my $in, '<:raw', $path or die "$path: $!";
	local $/;
	return scalar <$in>;
}

# Into the same file: a server may have it open.
sub write_binary {
	my ($path, $bytes) = @_;
	open my $out, '+<:raw', $path or die "$path: $!";
	truncate $out, 0 or die "$path: $!";
	print $out $bytes;
	close $out or die "$path: $!";
	return;
}

sub flipped {
	my ($bytes, $offset) = @_;
	substr($bytes, $offset, 1) ^= "\x10";
	return $bytes;
}

# The files of the store with this ending, the largest first, then by name.
sub files {
	my ($ending) = @_;
	return sort { -s $b <=> -s $a || $a cmp $b } glob "$store/*$ending";
}

sub base_name { return quotemeta((split m{/}, $_[0])[-1]) }

# The server ends, the file is changed, and the server starts: by code that gets the bytes and returns others, or undef
# to remove it. Then `check` runs; then the file is put back while the server runs.
sub with_damage {
	my ($name, $mode, $file, $change, $check) = @_;
	my $before = $node->safe_psql('postgres', $everything);
	$node->stop($mode);
	my $path = $file->();
	my $original = read_binary($path);
	my $changed = $change->($original);
	die "$name: nothing was changed" if defined $changed && $changed eq $original;

	if (defined $changed) {
		write_binary($path, $changed);
	} else {
		rename $path, "$path.away" or die "$path: $!";
	}
	$node->start;
	my $postmaster = $node->{_pid};
	$check->($name, base_name($path));
	if (defined $changed) {
		write_binary($path, $original);
	} else {
		unlink $path;
		rename "$path.away", $path or die "$path: $!";
	}
	is($node->safe_psql('postgres', $everything), $before, "$name: with the file put back everything is there");
	$node->restart;
	is($node->safe_psql('postgres', $everything), $before, "$name: and after a restart");
	return;
}

# ---- XXH3 of 64 bytes, as the checksum of a manifest without files (XXH3_len_17to128_64b of xxhash.h) -------------

my $mask = Math::BigInt->from_hex('ffffffffffffffff');

sub word { return Math::BigInt->from_hex(unpack 'H16', reverse substr($_[0], $_[1], 8)) }

sub xxh3_64_bytes {
	my ($data) = @_;
	my $secret = pack 'H*', 'b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f'
		. 'cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c';
	my $sum = Math::BigInt->from_hex('9e3779b185ebca87') * 64;
	for ([ 0, 0 ], [ 48, 16 ], [ 16, 32 ], [ 32, 48 ]) {
		my ($at, $key) = @$_;
		my $product = (word($data, $at) ^ word($secret, $key)) * (word($data, $at + 8) ^ word($secret, $key + 8));
		$sum += ($product & $mask) ^ ($product >> 64);
	}
	$sum &= $mask;
	$sum ^= $sum >> 37;
	$sum = ($sum * Math::BigInt->from_hex('165667919e3779f9')) & $mask;
	$sum ^= $sum >> 32;
	return reverse pack 'H16', substr('0' x 16 . substr($sum->as_hex, 2), -16);
}

# ---- Settings ----------------------------------------------------------------------------------------------------

{
	my $before = $node->safe_psql('postgres', $everything);
	$node->stop;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	$node->start;
	my %statements = (
		'a table' => 'SELECT * FROM t',
		'an INSERT' => 'INSERT INTO t VALUES (0)',
		'a key space' => "SELECT aidb.put('space', 'x', 'y')",
		'statistics' => 'SELECT * FROM aidb.stats()');
	for my $what (sort keys %statements) {
		my $error = refusal($node, $statements{$what});
		like($error, qr/ERROR:  55000: AiDb is not loaded in this server/, "without shared_preload_libraries: $what");
		like($error, qr/HINT:  Add "aidb" to shared_preload_libraries/, 'and how to change that');
	}
	heap_works($node, 'without shared_preload_libraries');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'aidb'");
	$node->restart;
	is($node->safe_psql('postgres', $everything), $before, 'with the setting everything is there');
}

$node->stop;
for my $memory (qw(8MB 33GB much)) {
	my $start = -s $node->logfile;
	$node->append_conf('postgresql.conf', "aidb.memory = '$memory'");
	ok(!$node->start(fail_ok => 1), "with aidb.memory = '$memory' the server does not start");
	like(slurp_file($node->logfile, $start), qr/FATAL:  .*(parameter "aidb\.memory"|"aidb\.memory" .*value)/,
		'and the log says why');
	$node->stop;
}
{
	my $start = -s $node->logfile;
	$node->append_conf('postgresql.conf', "aidb.memory = '16MB'\nmax_connections = 20000\nmax_locks_per_transaction = 10");
	ok(!$node->start(fail_ok => 1), 'with too many connections for the memory the server does not start');
	my $reason = qr/FATAL:  could not set up AiDb's shared memory.*DETAIL:  .*HINT:  Raise "aidb\.memory"/s;
	like(slurp_file($node->logfile, $start), $reason, 'and the log says what to do');
	$node->stop;
}
$node->append_conf('postgresql.conf', "max_connections = 20\nmax_locks_per_transaction = 64");
$node->start;

# ---- A second server ---------------------------------------------------------------------------------------------

{
	my ($output, $error) = ('', '');
	my @command = ('postgres', '-D', $node->data_dir, '-p', $node->port + 1, '-k', $node->host);
	my $before = $node->safe_psql('postgres', $everything);
	my $ended = IPC::Run::run(\@command, '>', \$output, '2>', \$error,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	ok(!$ended, 'a second server on the same data directory does not start');
	like($error, qr/FATAL:  lock file "postmaster.pid" already exists/, 'and says why');
	is($node->safe_psql('postgres', $everything), $before, 'the first goes on');
}

# ---- The manifest ------------------------------------------------------------------------------------------------

my $manifest = sub { "$store/MANIFEST" };

with_damage('a newer manifest', 'fast', $manifest, sub {
	my ($bytes) = @_;
	is(length $bytes, 64 + 4 + 8, 'the manifest is one without pins and files');
	substr($bytes, 8, 4) = pack 'V', 3; # of which nobody knows what comes after the head
	return substr($bytes, 0, 64) . xxh3_64_bytes(substr $bytes, 0, 64);
}, sub {
	my ($name, $file) = @_;
	store_refused($name, '0A000', "$file.*format version 3");
});

# from now on there are SSTables and a log that begins with what follows
$node->safe_psql('postgres', <<'SQL');
INSERT INTO t SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(101, 6000) i;
SELECT aidb.flush();
SQL

my %manifests = (
	'a flipped bit in the manifest' => sub { flipped($_[0], 20) },
	'a manifest cut off' => sub { substr $_[0], 0, length($_[0]) - 9 },
	'an empty manifest' => sub { '' },
	'no manifest' => sub { undef });
for my $name (sort keys %manifests) {
	with_damage($name, 'fast', $manifest, $manifests{$name}, sub {
		my ($what, $file) = @_;
		store_refused($what, 'XX001', $file);
	});
}

# ---- The log -----------------------------------------------------------------------------------------------------

sub log_files {
	my @names = sort glob "$store/*.log";
	return @names;
}

# Rows each durable on their own, of which the later say that the earlier are.
sub commit_rows {
	my $session = AidbSession->connect($node) or die 'no connection';
	my ($from) = $session->rows('SELECT max(id) + 1 FROM t');
	$session->rows("INSERT INTO t VALUES ($_, md5('$_'))") for $from .. $from + 9;
	return;
}

# Where what was written to a segment begins and ends.
sub written_range {
	my ($bytes) = @_;
	my $begin = $bytes =~ /\A.{64}\0*/s ? $+[0] : 64;
	return ($begin, length($bytes =~ s/\0+\z//r));
}

# The segment with records, which is the first here.
my $segment = sub { (grep { my ($begin, $end) = written_range(read_binary($_)); $end > $begin } log_files())[-1] };

sub flip_log {
	my ($part) = @_;
	return sub {
		my ($bytes) = @_;
		my ($begin, $end) = written_range($bytes);
		return flipped($bytes, int($end - $part * 800));
	};
}

my %logs = (
	'a flipped bit in the log' => flip_log(1),
	'a segment header that is damaged' => sub { flipped($_[0], 30) },
	'a log segment cut off' => sub { my ($begin, $end) = written_range($_[0]); substr $_[0], 0, $end - 800 },
	'an empty log segment' => sub { '' },
	'a missing log segment' => sub { undef });
for my $name (sort keys %logs) {
	commit_rows();
	with_damage($name, 'immediate', $segment, $logs{$name}, sub {
		my ($what, $file) = @_;
		store_refused($what, 'XX001', $file);
	});
}

# ---- Tables ------------------------------------------------------------------------------------------------------

my $table = sub { (files('.sst'))[0] };

with_damage('a flipped bit in a table', 'fast', $table, sub { flipped($_[0], length($_[0]) / 3) }, sub {
	my ($name, $file) = @_;
	my $session = AidbSession->connect($node);
	refused($node, 'SELECT sum(length(v)) FROM t', 'XX001', "$file: block at offset [0-9]+: ", "$name: a scan is refused");
	refused($node, 'UPDATE t SET v = v', 'XX001', $file, "$name: an UPDATE of everything is refused");
	is($session->run('SELECT sum(length(v)) FROM t'), 'XX001', "$name: in a session too");
	is($session->run("SELECT aidb.put('space', 'other', 'w')\\; SELECT aidb.delete('space', 'other')"), '00000',
		"$name: which works on with other keys");
	my $readable = grep { $session->run("SELECT v FROM t WHERE id = $_ * 100") eq '00000' } 1 .. 60;
	cmp_ok($readable, '>=', 40, "$name: most rows can be read");
	cmp_ok($readable, '<', 61, "$name: $readable of 60");
	heap_works($node, $name);
});

my %tables = (
	'a missing table' => sub { undef },
	'a table cut off' => sub { substr $_[0], 0, length($_[0]) / 2 },
	'an empty table' => sub { '' });
for my $name (sort keys %tables) {
	with_damage($name, 'fast', $table, $tables{$name}, sub {
		my ($what, $file) = @_;
		store_refused($what, 'XX001', $file);
	});
}

# ---- Values ------------------------------------------------------------------------------------------------------

for my $statement (
	"INSERT INTO t VALUES (-1, repeat('x', 1000000))",
	"UPDATE t SET v = repeat('x', 1000000) WHERE id = 1",
	"SELECT aidb.put('space', 'k', convert_to(repeat('x', 1000000), 'UTF8'))")
{
	refused($node, $statement, '54000', '[0-9]+ bytes', "too long a value: $statement");
}
is($node->safe_psql('postgres', "SELECT v = md5('1') FROM t WHERE id = 1"), 't', 'a refused value changes nothing');

# ---- A directory that cannot be written --------------------------------------------------------------------------

{
	my $session = AidbSession->connect($node);
	my ($before) = $session->rows('SELECT max(id) FROM t');
	my $id = $before;
	my $postmaster = $node->{_pid};
	my $state;

	chmod 0500, $store or die "$store: $!";
	do {
		$id++;
		$state = $session->run("INSERT INTO t VALUES ($id, repeat(md5('$id'), 3000))");
	} while ($state eq '00000' && $id < $before + 400);
	is($state, '58030', 'in a directory that cannot be written a write is refused');
	refused($node, "INSERT INTO t VALUES ($id, repeat(md5('$id'), 3000))", '58030', 'Permission denied',
		'with the reason');
	refused($node, 'SELECT aidb.flush()', '58030', 'Permission denied', 'a flush as well');
	is(join(' ', $session->rows("SELECT count(*) FROM t WHERE id > $before")), $id - 1 - $before, 'reads go on');
	heap_works($node, 'in a directory that cannot be written');
	chmod 0700, $store or die "$store: $!";
	is($session->run("INSERT INTO t VALUES ($id, md5('$id'))"), '00000', 'writes go on when it can be');
	$session->rows('SELECT aidb.flush()');
	is($node->{_pid}, $postmaster, 'by the same server');
	$node->restart;
	is($node->safe_psql('postgres', "SELECT count(*) FROM t WHERE id > $before"), $id - $before, 'nothing is lost');
}

# ---- A full disk -------------------------------------------------------------------------------------------------

# A directory of another user's namespace, in which this user may mount: `inside` are the words before a command that
# make it run there. The namespace is there as long as the process that waits for its input.
sub small_disk {
	my ($directory, $size) = @_;
	my $script = "mount -t tmpfs -o size=$size,mode=0700 tmpfs '$directory' && echo ready && exec cat";
	my ($input, $output, $error) = ('', '', '');
	my $holder = eval {
		IPC::Run::start([ 'unshare', '--user', '--map-current-user', '--keep-caps', '--mount', 'sh', '-c', $script ],
			'<', \$input, '>', \$output, '2>', \$error, IPC::Run::timeout(600));
	};
	if ($holder) {
		eval { $holder->pump until $output =~ /ready/ };
		if ($output =~ /ready/) {
			my $pid = $holder->{KIDS}[0]{PID};
			return ($holder, 'nsenter', '--user', '--mount', '--preserve-credentials', "--target=$pid");
		}
		eval { $holder->finish };
	}
	chomp $error;
	return (undef, $error ne '' ? $error : 'unshare failed');
}

sub start_inside {
	my ($full, @inside) = @_;
	system_or_bail(@inside, 'pg_ctl', '-w', '-D', $full->data_dir, '-l', $full->logfile, 'start');
	$full->_update_pid(1);
	return;
}

SKIP: {
	my $full = AidbNode->create('full', memory => '16MB', conf => 'shared_buffers = 4MB');
	mkdir $full->data_dir . '/aidb', 0700 or die $!;
	my ($holder, @inside) = small_disk($full->data_dir . '/aidb', '24m');
	skip "no disk of limited size: $inside[0]", 1 unless $holder;

	start_inside($full, @inside);
	$full->safe_psql('postgres', <<'SQL');
CREATE EXTENSION aidb;
CREATE TABLE heap (n int);
INSERT INTO heap SELECT generate_series(1, 100);
CREATE FOREIGN TABLE t (id int PRIMARY KEY, v text) SERVER aidb;
INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i;
SELECT aidb.flush();
SQL
	# by the server, which sees the disk
	my $take = "COPY (SELECT 1) TO PROGRAM 'dd if=/dev/zero of=aidb/filler bs=64k 2>/dev/null; true'";
	my $give = "COPY (SELECT 1) TO PROGRAM 'rm aidb/filler'";
	my $value = "(SELECT string_agg(md5(i::text || clock_timestamp()::text), '') FROM generate_series(1, 3000) i)";
	my $session = AidbSession->connect($full);
	my $postmaster = $full->{_pid};
	my $id = 100;

	# Writes until it is refused; the SQLSTATE.
	my $fill = sub {
		my $state = '00000';
		for (my $tries = 0; $state eq '00000' && $tries < 400; $tries++) {
			$state = $session->run('INSERT INTO t VALUES (' . ($id + 1) . ", $value)") // 'connection lost';
			$id++ if $state eq '00000';
		}
		return $state;
	};
	my $count = sub { return $full->safe_psql('postgres', 'SELECT count(*), max(id) FROM t') };

	for my $round (1 .. 2) {
		$session->rows($take);
		is($fill->(), '53100', 'on a full disk a write is refused');
		refused($full, "INSERT INTO t VALUES (0, $value)", '53100', 'No space left on device', 'with the reason');
		is($count->(), "$id|$id", 'reads go on');
		is($full->safe_psql('postgres', 'SELECT v = md5(id::text) FROM t WHERE id = 7'), 't', 'of older rows as well');
		heap_works($full, 'with AiDb on a full disk');
		$session->rows($give);
		is($session->run('INSERT INTO t VALUES (' . ($id + 1) . ", $value)"), '00000', 'writes resume with space');
		$id++;
		is($count->(), "$id|$id", 'and everything acknowledged is there');
		is($session->run("DELETE FROM t WHERE id > 100"), '00000', 'rows can go');
		$session->rows('SELECT aidb.flush()');
		$id = 100;
	}

	$session->rows($take);
	is($fill->(), '53100', 'full again');
	is($full->{_pid}, $postmaster, 'all this was one server');
	$session->close;
	$full->stop('immediate');
	start_inside($full, @inside);
	$full->safe_psql('postgres', $give);
	is($count->(), "$id|$id", 'a crash on a full disk loses nothing');
	is($full->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'and the store is well');
	is($full->safe_psql('postgres', 'DELETE FROM t; SELECT count(*) FROM t'), '0', 'writes go on');
	$full->stop;
	unlike(slurp_file($full->logfile), qr/PANIC|terminated by signal/, 'no process crashed on the full disk');
	$holder->finish;
}

# ---- The end -----------------------------------------------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'the store is well at the end');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no process crashed');
done_testing();
