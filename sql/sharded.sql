-- Tables whose rows are stored by slot, as on the nodes of a cluster.
CREATE FOREIGN TABLE tenant (id int, n int, note text, PRIMARY KEY (id, n)) SERVER aidb OPTIONS (shard_columns '1');
INSERT INTO tenant SELECT i / 10, i, 'note ' || i FROM generate_series(0, 9999) i;

SELECT count(*), sum(id), sum(n) FROM tenant;
SELECT * FROM tenant WHERE id = 7 AND n = 77;
SELECT n FROM tenant WHERE id = 7 ORDER BY n;
SELECT n FROM tenant WHERE id IN (900, 3, 77, 3) AND n % 10 = 4 ORDER BY n;
SELECT count(*) FROM tenant WHERE id BETWEEN 10 AND 19;
SELECT count(*) FROM tenant WHERE id > 990 AND n < 9950;
SELECT id, n FROM tenant ORDER BY id DESC, n DESC LIMIT 3;
SELECT count(*) FROM tenant WHERE id = ANY ('{}');
SELECT count(*) FROM tenant WHERE id = NULL;

-- Rows come in the order of their key only within one shard key.
EXPLAIN (COSTS OFF) SELECT n FROM tenant WHERE id = 7 ORDER BY n;
EXPLAIN (COSTS OFF) SELECT n FROM tenant WHERE id = 7 ORDER BY n DESC;
EXPLAIN (COSTS OFF) SELECT id FROM tenant ORDER BY id;
EXPLAIN (COSTS OFF) SELECT n FROM tenant WHERE id IN (7, 8) ORDER BY id;

UPDATE tenant SET id = 2000, note = 'moved' WHERE id = 7 AND n = 77;
SELECT * FROM tenant WHERE n = 77;
INSERT INTO tenant VALUES (2000, 77, 'again');
DELETE FROM tenant WHERE id < 500;
SELECT count(*), min(id), max(id) FROM tenant;
ANALYZE tenant;
SELECT reltuples FROM pg_class WHERE relname = 'tenant';
ALTER FOREIGN TABLE tenant ADD CHECK (n > 0);
ALTER FOREIGN TABLE tenant ADD CHECK (n <> 9999);

-- The shard key may be all of the primary key.
CREATE FOREIGN TABLE word (a text, b text, n int, PRIMARY KEY (a, b)) SERVER aidb OPTIONS (shard_columns '2');
INSERT INTO word SELECT chr(97 + i % 26), chr(97 + i / 26), i FROM generate_series(0, 675) i;
SELECT n FROM word WHERE a = 'c' AND b = 'd';
SELECT count(*) FROM word WHERE a = 'c';
SELECT n FROM word WHERE a = 'c' AND b > 'w' ORDER BY b;
SELECT n FROM word WHERE a IN ('x', 'c') AND b IN ('y', 'd') ORDER BY n;
SELECT n FROM word WHERE (a, b) > ('z', 'w') ORDER BY n;
INSERT INTO word VALUES ('c', 'd', 0) ON CONFLICT (a, b) DO UPDATE SET n = -word.n RETURNING n;

-- The numbers that tables of a cluster have.
BEGIN;
SELECT aidb.give_index_id(2147483700);
TRUNCATE word;
COMMIT;
SELECT count(*) FROM word;
INSERT INTO word VALUES ('a', 'b', 1);
SELECT * FROM word;
BEGIN;
SELECT aidb.give_index_id(2147483700);
CREATE FOREIGN TABLE other (a int PRIMARY KEY) SERVER aidb OPTIONS (shard_columns '1');
ROLLBACK;
SELECT aidb.give_index_id(5);

CREATE FOREIGN TABLE wrong (a int PRIMARY KEY) SERVER aidb OPTIONS (shard_columns '2');
CREATE FOREIGN TABLE wrong (a int PRIMARY KEY) SERVER aidb OPTIONS (shard_columns 'a');
CREATE FOREIGN TABLE wrong (a int PRIMARY KEY) SERVER aidb OPTIONS (shards '2');
ALTER FOREIGN TABLE tenant OPTIONS (SET shard_columns '2');
ALTER FOREIGN TABLE tenant OPTIONS (DROP shard_columns);

DROP FOREIGN TABLE tenant, word;
