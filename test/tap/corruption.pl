# Damages files of the store while the server is down, and shows that the damage is reported as such, with the name of
# the file, that the server stays up with its heap tables, and that all is well once the bytes are back.
use strict;
use warnings;
use AidbNode;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AidbNode->launch('main', memory => '16MB');
my $store = $node->data_dir . '/aidb';
my $rows = 0;

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE heap AS SELECT 1 AS k;
CREATE FOREIGN TABLE item (k int PRIMARY KEY, v text) SERVER aidb;
SQL

# Ten commits, so that the later ones bear witness that the log of the earlier ones was synced.
sub write_rows {
	for (1 .. 10) {
		my ($first, $last) = ($rows + 1, $rows += 1000);
		$node->safe_psql('postgres', "INSERT INTO item SELECT i, md5(i::text) FROM generate_series($first, $last) i");
	}
	return;
}

sub read_bytes {
	my ($file, $offset, $length) = @_;
	my $bytes;
	open my $in, '<:raw', $file or die "$file: $!";
	seek $in, $offset, 0;
	read $in, $bytes, $length;
	return $bytes;
}

sub write_bytes {
	my ($file, $offset, $bytes) = @_;
	open my $out, '+<:raw', $file or die "$file: $!";
	seek $out, $offset, 0;
	print $out $bytes;
	close $out or die "$file: $!";
	return;
}

# Flips bytes of a file and starts the server: every use must be refused, and after repair nothing is missing.
sub check_damage {
	my ($what, $file, $offset, $length) = @_;
	my $name = $file =~ s|.*/||r;

	$node->stop if defined $node->{_pid};
	my $good = read_bytes($file, $offset, $length);
	write_bytes($file, $offset, ~$good & ("\xff" x length $good));
	my $log_offset = -s $node->logfile;
	$node->start;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(v), max(v) FROM item");
	like($error, qr/ERROR:  XX001: /, "$what: reading is refused");
	like($error, qr/DETAIL:  [^\n]*\Q$name\E/, 'with the name of the file');
	like($error, qr/HINT:  /, 'and a hint');
	is($node->safe_psql('postgres', 'SELECT k FROM heap'), '1', 'heap tables can be read');
	unlike($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), qr/^ok$/, 'health says that it is not well')
		if $what !~ /SSTable/;
	$node->stop;
	unlike(slurp_file($node->logfile, $log_offset), qr/PANIC|terminated by signal/, 'nothing crashed');

	write_bytes($file, $offset, $good);
	$node->start;
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT v) FROM item'), "$rows|$rows",
		'with its bytes back all rows are there');
	return;
}

sub newest {
	my ($pattern) = @_;
	my @files = sort glob "$store/$pattern";
	return $files[-1];
}

# ---- SSTables and the manifest -----------------------------------------------------------------------------------

write_rows();
$node->safe_psql('postgres', 'SELECT aidb.flush()');
$node->stop;
my $table = newest('*.sst');
my $table_bytes = -s $table;

check_damage('first block of an SSTable', $table, 100, 16);
check_damage('later block of an SSTable', $table, int($table_bytes / 2), 16);
check_damage('index of an SSTable', $table, unpack('Q<', read_bytes($table, $table_bytes - 52, 8)) + 2, 16);
check_damage('manifest', "$store/MANIFEST", 20, 4);
check_damage('end of the manifest', "$store/MANIFEST", -s("$store/MANIFEST") - 8, 8);

# ---- The log -----------------------------------------------------------------------------------------------------

# Where the row with this text begins in a file of the log.
sub find_in_log {
	my ($text) = @_;
	for my $file (sort glob "$store/*.log") {
		my $offset = index(slurp_file($file), $text);
		return ($file, $offset) if $offset >= 0;
	}
	die "no such row in the log";
}

my $first = $rows + 1;
write_rows();
my ($log, $offset) = find_in_log($node->safe_psql('postgres', "SELECT v FROM item WHERE k = $first"));
check_damage('log below its synced position', $log, $offset, 8);

# ---- A file that is missing --------------------------------------------------------------------------------------

$node->safe_psql('postgres', 'SELECT aidb.flush()');
$node->stop;
$table = newest('*.sst');
rename $table, "$table.away" or die $!;
$node->start;
my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM item");
like($error, qr/ERROR:  XX001: .*DETAIL:  [^\n]*\Q@{[ $table =~ s|.*\/||r ]}\E/s, 'a missing SSTable is reported');
$node->stop;
rename "$table.away", $table or die $!;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM item'), $rows, 'and all is well when it is back');
is($node->safe_psql('postgres', 'SELECT status FROM aidb.health()'), 'ok', 'health says so, too');
done_testing();
