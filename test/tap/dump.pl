# pg_dump: what it writes of AiDb tables can be restored, with their rows, also where a replica follows.
use strict;
use warnings;
use AidbNode;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = AidbNode->launch('main');
my $other = AidbNode->launch('other');
my $replica = AidbNode->launch('replica');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA shop;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FOREIGN TABLE shop.item (b text, a int, v numeric DEFAULT 7 CHECK (v > 0), m mood, PRIMARY KEY (a, b)) SERVER aidb;
CREATE FOREIGN TABLE plain (id bigint PRIMARY KEY, v text) SERVER aidb;
CREATE TABLE parent (id int, part int, v text) PARTITION BY LIST (part);
CREATE FOREIGN TABLE child1 PARTITION OF parent (PRIMARY KEY (id)) FOR VALUES IN (1) SERVER aidb;
CREATE FOREIGN TABLE child2 PARTITION OF parent (PRIMARY KEY (part, id)) FOR VALUES IN (2) SERVER aidb;
INSERT INTO shop.item SELECT 'b' || i, i % 10, i, 'good' FROM generate_series(1, 1000) i;
INSERT INTO plain VALUES (1, 'one');
ALTER FOREIGN TABLE plain ADD COLUMN later int DEFAULT 5;
INSERT INTO plain VALUES (2, NULL, NULL);
INSERT INTO parent SELECT i, i % 2 + 1, 'v' || i FROM generate_series(1, 100) i;
SQL
my $errors;
ok(IPC::Run::run([ $node->installed_command('pg_dump'), '-h', $node->host, '-p', $node->port, '--include-foreign-data=aidb', '-f', $file, 'postgres' ], '2>', \$errors), 'pg_dump') or diag($errors);
like(slurp_file($file), qr/^ALTER FOREIGN TABLE .* OPTIONS \(\n +key '2'/m, 'sets keys as options of columns');

$other->safe_psql('postgres', 'SELECT aidb.become_primary()');
$replica->safe_psql('postgres', q{CREATE TYPE mood AS ENUM ('good', 'bad')});
$replica->safe_psql('postgres', "SELECT aidb.follow('" . $other->conninfo . "', 'replica')");
$other->safe_psql('postgres', slurp_file($file) =~ s/^CREATE SCHEMA aidb;$//mr); # where the extension is, so is its schema

my @questions = (
	'SELECT * FROM shop.item ORDER BY a, b', 'SELECT * FROM plain ORDER BY id', 'SELECT * FROM parent ORDER BY id',
	q{SELECT attrelid::regclass, attname, attnotnull, attfdwoptions FROM pg_attribute WHERE attfdwoptions IS NOT NULL AND attrelid::regclass::text IN ('shop.item', 'child1', 'child2') ORDER BY attrelid::regclass::text, attname});
is($other->safe_psql('postgres', $_), $node->safe_psql('postgres', $_), "the same: $_") for @questions;
$other->safe_psql('postgres', q{INSERT INTO shop.item VALUES ('new', 5); UPDATE plain SET v = 'changed' WHERE id = 1});
my (undef, undef, $refused) = $other->psql('postgres', q{INSERT INTO shop.item VALUES ('new', 5)});
like($refused, qr/duplicate key/, 'keys are keys');
(undef, undef, $refused) = $other->psql('postgres', q{ALTER FOREIGN TABLE plain ALTER COLUMN v OPTIONS (key '2')});
like($refused, qr/cannot change the primary key/, 'which is not changed');
(undef, undef, $refused) = $other->psql('postgres', q{SET check_function_bodies = off; ALTER FOREIGN TABLE plain ALTER COLUMN v OPTIONS (key '2')});
like($refused, qr/cannot change the primary key/, 'not by a script either, while there are rows');
(undef, undef, $refused) = $other->psql('postgres', 'CREATE FOREIGN TABLE keyless (id int) SERVER aidb');
like($refused, qr/has no primary key/, 'and a table must have one');
(undef, undef, $refused) = $other->psql('postgres', 'SET check_function_bodies = off; CREATE FOREIGN TABLE keyless (id int) SERVER aidb; INSERT INTO keyless VALUES (1)');
like($refused, qr/has no primary key/, 'before it can be used');
$other->safe_psql('postgres', 'DROP FOREIGN TABLE keyless');

my $upto = $other->safe_psql('postgres', 'SELECT sequence FROM aidb.node_status()');
$replica->poll_query_until('postgres', "SELECT state = 'streaming' AND applied >= $upto FROM aidb.node_status()")
  or die $replica->safe_psql('postgres', 'SELECT * FROM aidb.node_status()');
is($replica->safe_psql('postgres', $_), $other->safe_psql('postgres', $_), "on the replica: $_") for 'SELECT * FROM shop.item ORDER BY a, b', 'SELECT * FROM plain ORDER BY id';

done_testing();
