# With synchronous_commit off a crash may take back the last commits, but not one that a later commit is known to have
# followed: as with heap tables alone, whoever waits for his own commit waits for all that came before it.
use strict;
use warnings;
use AidbNode;
use AidbSession;
use Test::More;

my $node = AidbNode->launch('main', memory => '16MB');
$node->safe_psql('postgres', <<'SQL');
CREATE FOREIGN TABLE item (k text PRIMARY KEY) SERVER aidb;
CREATE TABLE heap (k text);
SQL

# Commits an AiDb row and does not wait for it, commits another way and waits for that, and dies.
sub follow {
	my ($name, @statements) = @_;
	my $session = AidbSession->connect_until($node);
	$session->rows("BEGIN\\; SET LOCAL synchronous_commit = off\\; INSERT INTO item VALUES ('$name')\\; COMMIT");
	is($session->run(join '\; ', @statements), '00000', "$name: committed");
	$node->crash;
	$node->start;
	is($node->safe_psql('postgres', "SELECT count(*) FROM item WHERE k = '$name'"), '1', "$name: so is what came before it");
	return;
}

follow('a heap row', "INSERT INTO heap VALUES ('a heap row')");
follow('an AiDb row', "INSERT INTO item VALUES ('another')");
follow('both', 'BEGIN', "INSERT INTO heap VALUES ('both')", "INSERT INTO item VALUES ('a third')", 'COMMIT');
follow('a prepared transaction', 'BEGIN', "INSERT INTO heap VALUES ('prepared')", "PREPARE TRANSACTION 'p'");

$node->stop;
done_testing();
