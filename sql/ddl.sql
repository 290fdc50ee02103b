-- Defining and changing AiDb tables.

CREATE FUNCTION options_of(relation regclass) RETURNS TABLE (name name, not_null boolean, options text[]) LANGUAGE sql AS
	'SELECT attname, attnotnull, attfdwoptions FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped ORDER BY attnum';

-- ---- ways to declare the key

CREATE FOREIGN TABLE a (id integer PRIMARY KEY, v text) SERVER aidb;
SELECT * FROM options_of('a');
CREATE FOREIGN TABLE b (x text, y integer, v text, CONSTRAINT b_key PRIMARY KEY (y, x)) SERVER aidb;
SELECT * FROM options_of('b');
CREATE FOREIGN TABLE c (v text, id bigint OPTIONS (key '1')) SERVER aidb;
SELECT * FROM options_of('c');
CREATE FOREIGN TABLE d (y integer OPTIONS (key '2') NOT NULL, x integer OPTIONS (key '1')) SERVER aidb;
SELECT * FROM options_of('d');

INSERT INTO a VALUES (1, 'one'), (2, 'two');
INSERT INTO b VALUES ('x', 1, 'x1'), ('x', 2, 'x2'), ('w', 1, 'w1');
INSERT INTO d VALUES (1, 2), (2, 1);
SELECT * FROM a ORDER BY id;
SELECT * FROM b ORDER BY y, x;
SELECT * FROM d ORDER BY x;
INSERT INTO a VALUES (1, 'again');
INSERT INTO a VALUES (NULL, 'none');

-- the statement survives as a plan that is used twice
CREATE PROCEDURE make_table() LANGUAGE plpgsql AS $$
BEGIN
	CREATE FOREIGN TABLE made (id integer PRIMARY KEY) SERVER aidb;
END $$;
CALL make_table();
DROP FOREIGN TABLE made;
CALL make_table();
SELECT * FROM options_of('made');
DROP FOREIGN TABLE made;

-- IF NOT EXISTS leaves what is there
CREATE FOREIGN TABLE IF NOT EXISTS a (other text PRIMARY KEY) SERVER aidb;
SELECT count(*) FROM a;
CREATE TABLE heap (id integer PRIMARY KEY, v text);
CREATE FOREIGN TABLE IF NOT EXISTS heap (id integer PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE a (id integer PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE IF NOT EXISTS fresh (id integer PRIMARY KEY) SERVER aidb;
INSERT INTO fresh VALUES (1);
DROP FOREIGN TABLE fresh;

-- inheritance and partitions
CREATE TABLE parent (id integer, v text);
CREATE FOREIGN TABLE child (PRIMARY KEY (id)) INHERITS (parent) SERVER aidb;
SELECT * FROM options_of('child');
INSERT INTO child VALUES (1, 'child');
INSERT INTO parent VALUES (1, 'parent');
SELECT tableoid::regclass, * FROM parent ORDER BY v;

CREATE TABLE parts (id integer, v text DEFAULT 'none') PARTITION BY RANGE (id);
CREATE FOREIGN TABLE part1 PARTITION OF parts (id PRIMARY KEY) FOR VALUES FROM (0) TO (10) SERVER aidb;
CREATE FOREIGN TABLE part2 PARTITION OF parts (PRIMARY KEY (id, v)) FOR VALUES FROM (10) TO (20) SERVER aidb;
SELECT * FROM options_of('part1');
SELECT * FROM options_of('part2');
INSERT INTO parts (id) VALUES (1), (9), (10), (19);
INSERT INTO parts VALUES (15, 'x');
INSERT INTO part1 VALUES (10, 'astray');
SELECT tableoid::regclass, * FROM parts ORDER BY id;
CREATE FOREIGN TABLE part3 (id integer PRIMARY KEY, v text) SERVER aidb;
INSERT INTO part3 VALUES (25, 'in'), (30, 'out');
ALTER TABLE parts ATTACH PARTITION part3 FOR VALUES FROM (20) TO (30);
DELETE FROM part3 WHERE id = 30;
ALTER TABLE parts ATTACH PARTITION part3 FOR VALUES FROM (20) TO (30);
SELECT tableoid::regclass, * FROM parts WHERE id > 15 ORDER BY id;

-- ---- new columns: rows that are older read the default that the column came with

INSERT INTO heap SELECT * FROM a;
ALTER FOREIGN TABLE a ADD COLUMN n integer DEFAULT 42, ADD COLUMN t text NOT NULL DEFAULT 'new', ADD COLUMN u text;
ALTER TABLE heap ADD COLUMN n integer DEFAULT 42, ADD COLUMN t text NOT NULL DEFAULT 'new', ADD COLUMN u text;
SELECT * FROM a ORDER BY id;
SELECT * FROM options_of('a');
INSERT INTO a (id, n) VALUES (3, NULL);
INSERT INTO heap (id, n) VALUES (3, NULL);
ALTER FOREIGN TABLE a ALTER COLUMN n SET DEFAULT 43, ALTER COLUMN t DROP DEFAULT;
ALTER TABLE heap ALTER COLUMN n SET DEFAULT 43, ALTER COLUMN t DROP DEFAULT;
INSERT INTO a (id, t) VALUES (4, 'four');
INSERT INTO heap (id, t) VALUES (4, 'four');
SELECT * FROM a ORDER BY id;
TABLE a EXCEPT TABLE heap;
TABLE heap EXCEPT TABLE a;
-- the first write of an old row stores what it read
UPDATE a SET v = 'uno' WHERE id = 1;
UPDATE heap SET v = 'uno' WHERE id = 1;
SELECT * FROM a WHERE n = 42 ORDER BY id;
-- evaluated once, when the column was added
BEGIN;
ALTER FOREIGN TABLE a ADD COLUMN since timestamptz DEFAULT now();
SELECT count(*) FROM a WHERE since = now();
COMMIT;
SELECT pg_sleep(0.01);
SELECT count(*) AS rows, count(DISTINCT since) AS instants, bool_and(since < now()) AS earlier FROM a;
ALTER FOREIGN TABLE a DROP COLUMN since;
-- by-reference values that need alignment, and long ones
ALTER FOREIGN TABLE a ADD COLUMN i interval DEFAULT '1 day', ADD COLUMN f double precision[] DEFAULT '{1.5,2.5}',
	ADD COLUMN l text DEFAULT repeat('long', 100);
SELECT i, f, length(l) FROM a WHERE id = 2;
ALTER FOREIGN TABLE a DROP COLUMN i, DROP COLUMN f, DROP COLUMN l;
-- through a parent
ALTER TABLE parts ADD COLUMN w integer DEFAULT 7;
SELECT * FROM parts ORDER BY id;
ALTER TABLE parent ADD COLUMN w integer DEFAULT 8 CHECK (w > 0);
SELECT * FROM parent ORDER BY v;
-- a domain's own default
CREATE DOMAIN level AS integer DEFAULT 5 CHECK (value > 0);
ALTER FOREIGN TABLE a ADD COLUMN stage level;
SELECT id, stage FROM a ORDER BY id;
ALTER FOREIGN TABLE a DROP COLUMN stage;
-- a volatile default is fine while there are no rows
CREATE SEQUENCE numbers;
ALTER FOREIGN TABLE c ADD COLUMN n bigint DEFAULT nextval('numbers'), ADD COLUMN g integer GENERATED ALWAYS AS (length(v)) STORED;
INSERT INTO c (v, id) VALUES ('three', 1), ('four', 2);
SELECT * FROM c ORDER BY id;
-- it goes with its transaction
BEGIN;
ALTER FOREIGN TABLE a ADD COLUMN gone integer DEFAULT 1;
SELECT sum(gone) FROM a;
SAVEPOINT s;
ALTER FOREIGN TABLE a ADD COLUMN more integer DEFAULT 2;
ROLLBACK TO s;
SELECT * FROM a WHERE id = 2;
ROLLBACK;
SELECT * FROM a WHERE id = 2;

-- ---- dropped columns

ALTER FOREIGN TABLE a DROP COLUMN v;
ALTER TABLE heap DROP COLUMN v;
INSERT INTO a VALUES (5, 5, 'five', 'V');
INSERT INTO heap VALUES (5, 5, 'five', 'V');
SELECT * FROM a ORDER BY id;
TABLE a EXCEPT TABLE heap;
TABLE heap EXCEPT TABLE a;
ALTER FOREIGN TABLE a ADD COLUMN v date DEFAULT '2020-01-01';
SELECT * FROM a WHERE id IN (1, 5) ORDER BY id;
UPDATE a SET v = '2021-01-01' WHERE id = 5;
SELECT * FROM a WHERE id IN (1, 5) ORDER BY id;
-- a column before the key
ALTER FOREIGN TABLE c DROP COLUMN v CASCADE;
INSERT INTO c (id) VALUES (3);
SELECT * FROM c ORDER BY id;

-- ---- types, names

ALTER FOREIGN TABLE a RENAME COLUMN id TO ident;
ALTER FOREIGN TABLE a RENAME TO renamed;
SELECT ident, n FROM renamed ORDER BY ident;
INSERT INTO renamed (ident, t) VALUES (1, 'again');
ALTER FOREIGN TABLE renamed ALTER COLUMN u TYPE varchar;
SELECT ident, u FROM renamed WHERE ident = 5;
CREATE FOREIGN TABLE e (id integer PRIMARY KEY, v integer) SERVER aidb;
INSERT INTO e VALUES (1, 1);
ALTER FOREIGN TABLE e ADD COLUMN w integer DEFAULT 9;
DELETE FROM e;
ALTER FOREIGN TABLE e ALTER COLUMN v TYPE text, ALTER COLUMN w TYPE text;
SELECT * FROM options_of('e');
INSERT INTO e VALUES (1, 'one', 'nine');
SELECT * FROM e;

-- ---- constraints are checked against the rows

ALTER FOREIGN TABLE renamed ALTER COLUMN n SET NOT NULL;
ALTER FOREIGN TABLE renamed ADD CONSTRAINT small CHECK (n < 43);
ALTER FOREIGN TABLE renamed ADD CONSTRAINT small CHECK (n < 43) NOT VALID;
ALTER FOREIGN TABLE renamed VALIDATE CONSTRAINT small;
UPDATE renamed SET n = 40 WHERE n IS NULL OR n >= 43;
ALTER FOREIGN TABLE renamed VALIDATE CONSTRAINT small;
ALTER FOREIGN TABLE renamed ALTER COLUMN n SET NOT NULL;
INSERT INTO renamed (ident, n, t) VALUES (6, 50, '');
INSERT INTO renamed (ident, n, t) VALUES (6, NULL, '');

-- ---- TRUNCATE and DROP roll back

TRUNCATE e;
SELECT count(*) FROM e;
INSERT INTO e VALUES (2, 'two');
BEGIN;
TRUNCATE e, d;
SELECT count(*) FROM e;
INSERT INTO e VALUES (3, 'three');
SAVEPOINT s;
DROP FOREIGN TABLE e;
ROLLBACK TO s;
SELECT * FROM e;
TRUNCATE e;
SELECT * FROM e;
ROLLBACK TO s;
SELECT * FROM e;
ROLLBACK;
SELECT * FROM e;
SELECT count(*) FROM d;
BEGIN;
CREATE FOREIGN TABLE brief (id integer PRIMARY KEY) SERVER aidb;
INSERT INTO brief VALUES (1);
SELECT * FROM brief;
ROLLBACK;
CREATE FOREIGN TABLE brief (id integer PRIMARY KEY) SERVER aidb;
SELECT * FROM brief;
-- a table of the same name is another table
INSERT INTO brief VALUES (1);
DROP FOREIGN TABLE brief;
CREATE FOREIGN TABLE brief (id integer PRIMARY KEY) SERVER aidb;
SELECT * FROM brief;

-- ---- DROP by way of others

CREATE SCHEMA s;
CREATE COLLATION s.plain (LOCALE = 'C');
CREATE FOREIGN TABLE s.t (k text COLLATE s.plain PRIMARY KEY, v text) SERVER aidb;
INSERT INTO s.t VALUES ('k', 'v');
DROP COLLATION s.plain CASCADE;
SELECT * FROM s.t;
SET client_min_messages = warning;
BEGIN;
DROP SCHEMA s CASCADE;
ROLLBACK;
SELECT * FROM s.t;
DROP SCHEMA s CASCADE;
RESET client_min_messages;
CREATE SERVER other FOREIGN DATA WRAPPER aidb_fdw;
CREATE FOREIGN TABLE elsewhere (id integer PRIMARY KEY) SERVER other;
INSERT INTO elsewhere VALUES (1);
SELECT * FROM elsewhere;
DROP SERVER other CASCADE;

-- ---- event triggers see the statement

CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
	command record;
BEGIN
	FOR command IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
		RAISE NOTICE '%: %', command.command_tag, command.object_identity;
	END LOOP;
END $$;
CREATE EVENT TRIGGER tell ON ddl_command_end EXECUTE FUNCTION tell();
CREATE FOREIGN TABLE told (id integer PRIMARY KEY) SERVER aidb;
INSERT INTO told VALUES (1);
ALTER FOREIGN TABLE told ADD COLUMN v integer DEFAULT 1;
SELECT * FROM told;
DROP EVENT TRIGGER tell;

-- ---- tables of other wrappers are left alone

CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE foreign_one (id integer PRIMARY KEY) SERVER dummy;
CREATE FOREIGN TABLE foreign_one (id integer) SERVER dummy;
ALTER FOREIGN TABLE foreign_one ADD COLUMN v integer DEFAULT random();
ALTER FOREIGN TABLE foreign_one ALTER COLUMN id TYPE bigint, ALTER COLUMN v SET NOT NULL;
DROP FOREIGN DATA WRAPPER dummy CASCADE;

DROP TABLE parts, parent CASCADE;
DROP FOREIGN TABLE renamed, b, c, d, e, brief, told;
DROP TABLE heap;
DROP SEQUENCE numbers;
DROP DOMAIN level;
DROP PROCEDURE make_table();
DROP FUNCTION tell();
DROP FUNCTION options_of(regclass);

-- ---- a database takes its tables with it

CREATE DATABASE regress_ddl TEMPLATE template0;
\c regress_ddl
CREATE EXTENSION aidb;
CREATE FOREIGN TABLE t (id integer PRIMARY KEY) SERVER aidb;
INSERT INTO t VALUES (1);
SELECT * FROM t;
\c regression
DROP DATABASE regress_ddl;
