-- SERIALIZABLE in one session: what is locked, and that all that works below it works here
CREATE FOREIGN TABLE one (id int PRIMARY KEY, v text) SERVER aidb;
CREATE FOREIGN TABLE big (a bigint, b text, PRIMARY KEY (a, b)) SERVER aidb;
CREATE TABLE heap (id int PRIMARY KEY);
INSERT INTO one SELECT i, 'v' FROM generate_series(1, 1000) i;
INSERT INTO big VALUES (1, 'x'), (1, 'y'), (2, 'x');
SET default_transaction_isolation = serializable;

-- the predicate locks of this session, by table and kind
CREATE FUNCTION locked() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT CASE relation WHEN 4294967295 THEN 'key spaces' ELSE relation::regclass::text END
		|| ' ' || locktype || ' ' || count(*)
	FROM pg_locks WHERE mode = 'SIReadLock' AND pid = pg_backend_pid() AND relation > 16384 GROUP BY relation, locktype
	ORDER BY 1
$$;

-- keys, there or not
BEGIN;
SELECT count(*) FROM one WHERE id = 1;
SELECT count(*) FROM one WHERE id IN (1, 2, -5);
SELECT locked();
COMMIT;
-- ranges: by blocks of keys where they are few
BEGIN;
SELECT count(*) FROM one WHERE id BETWEEN 10 AND 15;
SELECT locked();
SELECT count(*) FROM one WHERE id BETWEEN 10 AND 900;
SELECT locked();
SELECT count(*) FROM one WHERE id < 900;
SELECT locked();
COMMIT;
BEGIN;
SELECT count(*) FROM big WHERE a = 1;
SELECT locked();
SELECT count(*) FROM big WHERE a BETWEEN 1 AND 300;
SELECT locked();
SELECT count(*) FROM big WHERE a = 1 AND b >= 'x';
SELECT locked();
COMMIT;
-- many keys become the table, by PostgreSQL's rules
BEGIN;
SELECT count(*) FROM one WHERE id = ANY (ARRAY(SELECT generate_series(1, 100)));
SELECT locked();
COMMIT;
-- key spaces
BEGIN;
SELECT aidb.get('serial', 'k') IS NULL AS absent;
SELECT aidb.put('serial', 'k', 'v'), aidb.put('serial', 'l', 'v');
SELECT convert_from(aidb.get('serial', 'k'), 'UTF8'), aidb.delete('serial', 'l');
SELECT count(*) FROM aidb.scan('serial');
SELECT locked();
COMMIT;
SELECT count(*) FROM aidb.scan('serial');

-- writes: an id is taken at commit, and only for writes
BEGIN;
INSERT INTO one VALUES (2000, 'new');
UPDATE one SET v = 'changed' WHERE id = 1;
DELETE FROM one WHERE id = 2;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_id_yet;
SAVEPOINT a;
DELETE FROM one WHERE id > 3;
SELECT count(*) FROM one;
ROLLBACK TO a;
INSERT INTO heap VALUES (1);
COMMIT;
SELECT id, v FROM one WHERE id IN (1, 2, 2000) ORDER BY id;
INSERT INTO one VALUES (1, 'duplicate');
BEGIN;
DELETE FROM one WHERE id = 2000;
INSERT INTO one VALUES (2000, 'again');
UPDATE one SET id = id + 1 WHERE id = 2000;
COMMIT;
SELECT id, v FROM one WHERE id >= 2000;
COPY one FROM stdin;
3000	copied
\.
-- too much for one batch
BEGIN;
INSERT INTO big SELECT 100 + i, repeat('x', 500) FROM generate_series(1, 3000) i;
COMMIT;
SELECT count(*) FROM big;

BEGIN READ ONLY;
SELECT count(*) FROM one;
INSERT INTO one VALUES (4000);
ROLLBACK;
BEGIN READ ONLY DEFERRABLE;
SELECT count(*) FROM one;
SELECT locked();
COMMIT;

-- DDL
BEGIN;
ALTER FOREIGN TABLE one ADD CHECK (id > 0);
ALTER FOREIGN TABLE one ADD COLUMN w int DEFAULT 7;
ANALYZE one;
SELECT sum(w) FROM one;
TRUNCATE big;
INSERT INTO big VALUES (5, 'five');
CREATE FOREIGN TABLE fresh (id int PRIMARY KEY) SERVER aidb;
INSERT INTO fresh VALUES (1);
SELECT count(*) FROM fresh;
DROP FOREIGN TABLE fresh;
COMMIT;
SELECT * FROM big;

RESET default_transaction_isolation;
SELECT aidb.delete('serial', 'k');
DROP FOREIGN TABLE one, big;
DROP TABLE heap;
DROP FUNCTION locked();
