--
-- INSERT ... ON CONFLICT. What compare() is given runs on an AiDb table and on a heap table, and must do the same.
--
CREATE SCHEMA on_aidb;
CREATE SCHEMA on_heap;

CREATE FUNCTION compare(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	side text;
	line record;
	lines text[];
	expected text[];
BEGIN
	IF statement ~ '^INSERT' AND statement !~ 'RETURNING' THEN
		statement := statement || ' RETURNING *';
	END IF;
	FOREACH side IN ARRAY '{on_heap, on_aidb}'::text[] LOOP
		PERFORM set_config('search_path', side || ', public', true);
		lines := '{}';
		BEGIN
			FOR line IN EXECUTE statement LOOP
				lines := lines || line::text;
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			lines := ARRAY[SQLSTATE || ' ' || replace(replace(SQLERRM, 'foreign table', 'table'), 'updated or deleted', 'updated')];
		END;
		IF side = 'on_heap' THEN
			expected := lines;
		ELSIF lines IS DISTINCT FROM expected THEN
			RAISE 'AiDb: %, heap: %', lines, expected;
		END IF;
	END LOOP;
	RETURN QUERY SELECT unnest(lines);
END $$;

CREATE FOREIGN TABLE on_aidb.item (
	id integer,
	kind text COLLATE "C",
	n integer NOT NULL CHECK (n >= 0),
	twice integer GENERATED ALWAYS AS (n * 2) STORED,
	note text DEFAULT 'none',
	PRIMARY KEY (id, kind)
) SERVER aidb;
CREATE TABLE on_heap.item (
	id integer,
	kind text COLLATE "C",
	n integer NOT NULL CHECK (n >= 0),
	twice integer GENERATED ALWAYS AS (n * 2) STORED,
	note text DEFAULT 'none',
	PRIMARY KEY (id, kind)
);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 1), (2, 'a', 2), (2, 'b', 3) RETURNING *$$);

-- what the clause can say
SELECT compare($$INSERT INTO item VALUES (2, 'a', 9), (3, 'a', 3) ON CONFLICT (id, kind) DO NOTHING RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (2, 'a', 9), (4, 'a', 4) ON CONFLICT (kind, id) DO UPDATE SET n = EXCLUDED.n + item.n RETURNING *$$);
SELECT compare($$INSERT INTO item AS t VALUES (1, 'a', 1), (2, 'a', 1), (5, 'a', 5) ON CONFLICT (id, kind)
	DO UPDATE SET n = t.n * 10, note = t.note || EXCLUDED.kind WHERE t.n > EXCLUDED.n RETURNING t.*, tableoid IS NOT NULL$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind) DO UPDATE SET n = DEFAULT$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind) DO UPDATE SET note = DEFAULT, twice = DEFAULT RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind)
	DO UPDATE SET (n, note) = (SELECT count(*) + EXCLUDED.n, max(note) || item.kind FROM item i) RETURNING *$$);
SELECT compare($$INSERT INTO item SELECT g, 'a', g FROM generate_series(1, 8) g ON CONFLICT (id, kind)
	DO UPDATE SET n = EXCLUDED.n, note = (SELECT string_agg(kind, ',' ORDER BY kind) FROM item i WHERE i.id = EXCLUDED.id)
	WHERE EXISTS (SELECT FROM item i WHERE i.id = item.id AND i.kind = 'b') RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind) DO UPDATE SET note = (item)::text || (EXCLUDED)::text RETURNING note$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, id, kind) WHERE n > 5 DO UPDATE SET note = 'predicate' RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id int4_ops, kind COLLATE "C" text_ops) DO UPDATE SET note = 'operators' RETURNING *$$);
SELECT compare($$TABLE item ORDER BY id, kind$$);

-- columns that are not the key
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id) DO NOTHING$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind, n) DO UPDATE SET n = 0$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, (lower(kind))) DO NOTHING$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind COLLATE "POSIX") DO NOTHING$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT (id, kind text_pattern_ops) DO NOTHING$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT DO UPDATE SET n = 0$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 7) ON CONFLICT ON CONSTRAINT nothing DO UPDATE SET n = 0$$);
INSERT INTO on_aidb.item VALUES (1, 'a', 7) ON CONFLICT (id) DO NOTHING;
INSERT INTO on_aidb.item VALUES (1, 'a', 7) ON CONFLICT ON CONSTRAINT item_pkey DO NOTHING;

-- rows met twice, constraints, and keys that change
SELECT compare($$INSERT INTO item VALUES (20, 'x', 1), (20, 'x', 2) ON CONFLICT (id, kind) DO UPDATE SET n = EXCLUDED.n$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 1), (1, 'a', 2) ON CONFLICT (id, kind) DO UPDATE SET n = EXCLUDED.n$$);
SELECT compare($$INSERT INTO item VALUES (20, 'x', 1), (20, 'x', 2) ON CONFLICT (id, kind) DO NOTHING RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', -1) ON CONFLICT (id, kind) DO UPDATE SET n = 1$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', NULL) ON CONFLICT (id, kind) DO UPDATE SET n = 1$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET n = -EXCLUDED.n$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET n = NULL$$);
SELECT compare($$INSERT INTO item VALUES (1, NULL, 1) ON CONFLICT (id, kind) DO UPDATE SET n = 2 RETURNING id$$);
SELECT compare($$INSERT INTO item VALUES (1, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET id = 30, kind = 'moved' RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (2, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET kind = 'b'$$);
SELECT compare($$INSERT INTO item VALUES (2, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET kind = NULL$$);
SELECT compare($$INSERT INTO item VALUES (30, 'moved', 1), (30, 'again', 1) ON CONFLICT (id, kind) DO UPDATE SET kind = 'again'$$);
SELECT compare($$INSERT INTO item VALUES (2, 'a', 1) ON CONFLICT (id, kind) DO UPDATE SET id = item.id RETURNING *$$);
SELECT compare($$TABLE item ORDER BY id, kind$$);

-- own rows, and savepoints
BEGIN;
SELECT compare($$INSERT INTO item VALUES (40, 't', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (40, 't', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
SAVEPOINT one;
SELECT compare($$DELETE FROM item WHERE id = 40 RETURNING n$$);
SELECT compare($$INSERT INTO item VALUES (40, 't', 5) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (40, 't', 5) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
ROLLBACK TO one;
SELECT compare($$INSERT INTO item VALUES (40, 't', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
ROLLBACK;
SELECT compare($$INSERT INTO item VALUES (40, 't', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);

-- tags of commands, plans
CREATE FOREIGN TABLE counter (id integer PRIMARY KEY, n integer NOT NULL, note text) SERVER aidb;
\set QUIET off
INSERT INTO counter VALUES (1, 1), (2, 1), (3, 1) ON CONFLICT (id) DO NOTHING;
INSERT INTO counter VALUES (3, 1), (4, 1) ON CONFLICT (id) DO NOTHING;
INSERT INTO counter VALUES (3, 1), (4, 1), (5, 1) ON CONFLICT (id) DO UPDATE SET n = 5 WHERE counter.id > 3;
\set QUIET on
EXPLAIN (COSTS off) INSERT INTO counter VALUES (1, 1) ON CONFLICT (id) DO NOTHING;
EXPLAIN (COSTS off) INSERT INTO counter VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = 5 WHERE counter.n < EXCLUDED.n;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) INSERT INTO counter SELECT g, 1 FROM generate_series(1, 10) g
ON CONFLICT (id) DO UPDATE SET n = counter.n + 1 WHERE counter.id > 2;
EXPLAIN (COSTS off) WITH changed AS (INSERT INTO counter VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = 5 RETURNING id)
SELECT * FROM changed;
TABLE counter;

-- statements that are kept: prepared, with custom and generic plans, in functions and rules
PREPARE upsert(integer, integer) AS INSERT INTO counter VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET n = counter.n + EXCLUDED.n, note = $2 RETURNING *;
SET plan_cache_mode = force_custom_plan;
EXECUTE upsert(50, 1);
EXECUTE upsert(50, 2);
SET plan_cache_mode = force_generic_plan;
EXECUTE upsert(50, 3);
EXECUTE upsert(51, 4);
EXPLAIN (COSTS off) EXECUTE upsert(51, 4);
RESET plan_cache_mode;
CREATE FUNCTION put(integer, integer) RETURNS SETOF counter LANGUAGE sql
BEGIN ATOMIC
	INSERT INTO counter VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n RETURNING *;
END;
SELECT * FROM put(50, 10);
SELECT * FROM put(52, 10);
\sf put
CREATE VIEW raised AS SELECT * FROM counter;
CREATE RULE raise AS ON INSERT TO raised DO INSTEAD
INSERT INTO counter VALUES (NEW.id, NEW.n) ON CONFLICT (id) DO UPDATE SET n = GREATEST(counter.n, EXCLUDED.n);
INSERT INTO raised VALUES (50, 9), (52, 11), (53, 12);
TABLE counter;
DROP FOREIGN TABLE counter CASCADE;

CREATE FUNCTION add(integer, integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	result integer;
BEGIN
	INSERT INTO item (id, kind, n) VALUES ($1, 'f', $2) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + EXCLUDED.n
	RETURNING n INTO STRICT result;
	RETURN result;
END $$;
SELECT compare($$SELECT add(60 + g % 2, g) FROM generate_series(1, 8) g$$);
SELECT compare($$WITH source (id, n) AS (VALUES (60, 100), (64, 100)),
	changed AS (INSERT INTO item (id, kind, n) SELECT id, 'f', n FROM source ON CONFLICT (id, kind) DO UPDATE SET n = EXCLUDED.n RETURNING *),
	ignored AS (INSERT INTO item (id, kind, n) VALUES (50, 'a', 1), (65, 'f', 1) ON CONFLICT (kind, id) DO NOTHING RETURNING *)
	SELECT id, n FROM changed UNION ALL SELECT id, n FROM ignored ORDER BY id$$);
SELECT compare($$WITH known AS (SELECT max(n) AS highest FROM item)
	INSERT INTO item VALUES (65, 'f', 1) ON CONFLICT (id, kind) DO UPDATE SET n = (SELECT highest FROM known) RETURNING *$$);
CREATE FUNCTION item_key(text) RETURNS text LANGUAGE plpgsql STABLE AS
$$ BEGIN RETURN (SELECT id || kind FROM item WHERE kind = $1 ORDER BY id LIMIT 1); END $$;
SELECT compare($$INSERT INTO item VALUES (65, 'f', 1) ON CONFLICT (id, kind) DO UPDATE SET note = item_key(EXCLUDED.kind) RETURNING *$$);

-- a function in the statement that changes the row which the statement is about to change
SELECT compare($$INSERT INTO item (id, kind, n) VALUES (66, 'f', add(66, 1)) ON CONFLICT (id, kind) DO UPDATE SET n = 100$$);
SELECT compare($$INSERT INTO item (id, kind, n) VALUES (60, 'f', 1) ON CONFLICT (id, kind) DO UPDATE SET n = add(60, 1)$$);
SELECT compare($$INSERT INTO item (id, kind, n) VALUES (60, 'f', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n WHERE add(67, 1) > 0 RETURNING *$$);

-- views
CREATE VIEW on_aidb.low AS SELECT id AS number, kind, n FROM on_aidb.item WHERE n < 10 WITH CHECK OPTION;
CREATE VIEW on_heap.low AS SELECT id AS number, kind, n FROM on_heap.item WHERE n < 10 WITH CHECK OPTION;
SELECT compare($$INSERT INTO low VALUES (70, 'v', 1) ON CONFLICT (number, kind) DO UPDATE SET n = low.n + EXCLUDED.n RETURNING *$$);
SELECT compare($$INSERT INTO low VALUES (70, 'v', 1) ON CONFLICT (number, kind) DO UPDATE SET n = low.n + EXCLUDED.n RETURNING *$$);
SELECT compare($$INSERT INTO low VALUES (70, 'v', 1) ON CONFLICT (number, kind) DO UPDATE SET n = 10$$);
SELECT compare($$INSERT INTO low VALUES (70, 'v', 10) ON CONFLICT (number, kind) DO UPDATE SET n = 9 RETURNING *$$);
SELECT compare($$INSERT INTO low VALUES (71, 'v', 10) ON CONFLICT (number, kind) DO UPDATE SET n = 9 RETURNING *$$);
SELECT compare($$INSERT INTO low VALUES (70, 'v', 1) ON CONFLICT (number) DO NOTHING$$);

-- privileges: as for heap tables, the columns of the clause are read
CREATE ROLE on_conflict_user;
GRANT USAGE ON SCHEMA on_aidb, on_heap TO on_conflict_user;
GRANT INSERT, UPDATE (n) ON on_aidb.item, on_heap.item TO on_conflict_user;
SET ROLE on_conflict_user;
SELECT compare($$INSERT INTO item VALUES (80, 'r', 1) ON CONFLICT (id, kind) DO UPDATE SET n = 2 RETURNING id$$);
RESET ROLE;
GRANT SELECT (id, kind) ON on_aidb.item, on_heap.item TO on_conflict_user;
SET ROLE on_conflict_user;
SELECT compare($$INSERT INTO item VALUES (80, 'r', 1) ON CONFLICT (id, kind) DO UPDATE SET n = 2 RETURNING id$$);
SELECT compare($$INSERT INTO item VALUES (80, 'r', 1) ON CONFLICT (id, kind) DO UPDATE SET n = 2 RETURNING id$$);
SELECT compare($$INSERT INTO item VALUES (80, 'r', 1) ON CONFLICT (id, kind) DO UPDATE SET note = '' RETURNING id$$);
SELECT compare($$INSERT INTO item VALUES (80, 'r', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING id$$);
RESET ROLE;
SELECT compare($$TABLE item ORDER BY id, kind$$);

-- large rows, and dropped and added columns
SELECT compare($$INSERT INTO item VALUES (90, 'big', 1, DEFAULT, repeat('x', 100000)) RETURNING length(note)$$);
SELECT compare($$INSERT INTO item VALUES (90, 'big', 1, DEFAULT, repeat('y', 100000)) ON CONFLICT (id, kind)
	DO UPDATE SET n = item.n + 1 RETURNING n, md5(note)$$);
SELECT compare($$INSERT INTO item VALUES (90, 'big', 1, DEFAULT, repeat('y', 100000)) ON CONFLICT (id, kind)
	DO UPDATE SET note = item.note || EXCLUDED.note RETURNING n, length(note), md5(note)$$);
ALTER FOREIGN TABLE on_aidb.item DROP COLUMN note;
ALTER TABLE on_heap.item DROP COLUMN note;
ALTER FOREIGN TABLE on_aidb.item ADD COLUMN late text DEFAULT 'late';
ALTER TABLE on_heap.item ADD COLUMN late text DEFAULT 'late';
SELECT compare($$INSERT INTO item VALUES (90, 'big', 1) ON CONFLICT (id, kind) DO UPDATE SET n = item.n + 1 RETURNING *$$);
SELECT compare($$INSERT INTO item VALUES (90, 'big', 1) ON CONFLICT (id, kind) DO UPDATE SET late = item.late || EXCLUDED.n RETURNING *$$);
SELECT compare($$INSERT INTO item (id, kind, n, late) SELECT id, kind, n, 'itself' FROM item ORDER BY id, kind
	ON CONFLICT (id, kind) DO UPDATE SET late = EXCLUDED.late WHERE item.id > 60 RETURNING *$$);

-- through partitioned tables
CREATE TABLE part (region text COLLATE "C", id integer, n integer DEFAULT 1, note text) PARTITION BY LIST (region);
CREATE FOREIGN TABLE part_a (region text COLLATE "C", id integer, n integer, note text, PRIMARY KEY (region, id)) SERVER aidb;
ALTER TABLE part ATTACH PARTITION part_a FOR VALUES IN ('a');
-- columns in another order, and dropped ones
CREATE FOREIGN TABLE part_b (
	note text, gone integer, id integer, n integer CHECK (n < 100), region text COLLATE "C", PRIMARY KEY (id, region)
) SERVER aidb;
ALTER FOREIGN TABLE part_b DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_b FOR VALUES IN ('b');
-- partitioned again
CREATE TABLE part_c PARTITION OF part FOR VALUES IN ('c') PARTITION BY RANGE (id);
CREATE FOREIGN TABLE part_c1 (note text, n integer, region text COLLATE "C", id integer, PRIMARY KEY (region, id)) SERVER aidb;
ALTER TABLE part_c ATTACH PARTITION part_c1 FOR VALUES FROM (0) TO (100);

INSERT INTO part VALUES ('a', 1), ('b', 1), ('c', 1), ('b', 2) ON CONFLICT (region, id) DO NOTHING RETURNING *, tableoid::regclass;
INSERT INTO part VALUES ('a', 1), ('b', 1), ('c', 1), ('c', 2) ON CONFLICT (region, id) DO NOTHING RETURNING *, tableoid::regclass;
INSERT INTO part VALUES ('a', 1), ('b', 1), ('c', 1), ('b', 3)
ON CONFLICT (id, region) DO UPDATE SET n = part.n + EXCLUDED.n, note = part.region || EXCLUDED.id || part.tableoid::regclass
WHERE part.n < 10 RETURNING *, tableoid::regclass;
INSERT INTO part SELECT chr(97 + g % 3), 1, g FROM generate_series(0, 2) g
ON CONFLICT (region, id) DO UPDATE SET (n, note) = (SELECT sum(p.n), part.note || EXCLUDED.n FROM part p WHERE p.id = part.id) RETURNING *;
INSERT INTO part VALUES ('b', 1) ON CONFLICT (region, id) DO UPDATE SET n = 100;
INSERT INTO part VALUES ('b', 1), ('b', 1) ON CONFLICT (region, id) DO UPDATE SET n = 2;
INSERT INTO part VALUES ('b', 1) ON CONFLICT (region, id) DO UPDATE SET id = 10 RETURNING *;
INSERT INTO part VALUES ('b', 10) ON CONFLICT (region, id) DO UPDATE SET region = 'a';
INSERT INTO part_b VALUES (NULL, 10, 10, 'b') ON CONFLICT (region, id) DO UPDATE SET n = part_b.n + 1 RETURNING *;
INSERT INTO part VALUES ('b', 1), ('d', 1) ON CONFLICT (region, id) DO NOTHING;
EXPLAIN (COSTS off) INSERT INTO part VALUES ('b', 10) ON CONFLICT (region, id) DO UPDATE SET n = part.n + 1 WHERE part.n < 100;
SELECT *, tableoid::regclass FROM part ORDER BY region, id;

-- columns that do not decide
INSERT INTO part VALUES ('b', 1) ON CONFLICT (id) DO NOTHING;
INSERT INTO part VALUES ('b', 1) ON CONFLICT (region) DO NOTHING;
INSERT INTO part_c VALUES ('c', 1) ON CONFLICT (id) DO NOTHING;
INSERT INTO part VALUES ('b', 1) ON CONFLICT (region, (id + 1)) DO NOTHING;
INSERT INTO part VALUES ('b', 1) ON CONFLICT ON CONSTRAINT part_pkey DO NOTHING;

-- a plan that is kept learns of new partitions, at any level
PREPARE upsert_part(text, integer) AS INSERT INTO part VALUES ($1, $2)
ON CONFLICT (region, id) DO UPDATE SET n = part.n + 1 RETURNING *, tableoid::regclass;
SET plan_cache_mode = force_generic_plan;
EXECUTE upsert_part('a', 1);
EXECUTE upsert_part('c', 1);
CREATE TABLE part_c2 PARTITION OF part_c FOR VALUES FROM (100) TO (200);
EXECUTE upsert_part('c', 100);
INSERT INTO part VALUES ('c', 100) ON CONFLICT (region, id) DO NOTHING;
ALTER TABLE part_c2 ADD UNIQUE (id, region);
EXECUTE upsert_part('c', 100);
EXECUTE upsert_part('c', 100);
EXECUTE upsert_part('c', 1);
-- a heap partition with more than one unique index
ALTER TABLE part_c2 ADD CONSTRAINT part_c2_note UNIQUE (note);
EXECUTE upsert_part('c', 100);
INSERT INTO part_c2 VALUES ('c', 100) ON CONFLICT (region, id) DO NOTHING;
INSERT INTO part VALUES ('c', 100) ON CONFLICT DO NOTHING;
ALTER TABLE part_c2 DROP CONSTRAINT part_c2_note;
EXECUTE upsert_part('c', 100);
CREATE UNIQUE INDEX part_c2_few ON part_c2 (id) WHERE n > 1000;
EXECUTE upsert_part('c', 100);
DROP INDEX part_c2_few;
EXECUTE upsert_part('c', 100);
-- another key
CREATE FOREIGN TABLE part_d (region text COLLATE "C", id integer PRIMARY KEY, n integer, note text) SERVER aidb;
ALTER TABLE part ATTACH PARTITION part_d FOR VALUES IN ('d');
EXECUTE upsert_part('d', 1);
ALTER TABLE part DETACH PARTITION part_d;
EXECUTE upsert_part('c', 1);
RESET plan_cache_mode;

-- row security of the partitioned table
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
CREATE POLICY part_read ON part FOR SELECT USING (true);
CREATE POLICY part_insert ON part FOR INSERT WITH CHECK (n < 50);
CREATE POLICY part_update ON part FOR UPDATE USING (id <> 2) WITH CHECK (n < 20);
GRANT SELECT, INSERT, UPDATE ON part TO on_conflict_user;
SET ROLE on_conflict_user;
INSERT INTO part VALUES ('b', 7, 60) ON CONFLICT (region, id) DO UPDATE SET n = 1;
INSERT INTO part VALUES ('b', 2, 1) ON CONFLICT (region, id) DO UPDATE SET n = 1;
INSERT INTO part VALUES ('b', 3, 1) ON CONFLICT (region, id) DO UPDATE SET n = 20;
INSERT INTO part VALUES ('b', 3, 1) ON CONFLICT (region, id) DO UPDATE SET n = 19 RETURNING *;
UPDATE part SET n = 20 WHERE region = 'b' AND id = 3;
RESET ROLE;

-- core's own affair: no AiDb tables below
CREATE TABLE heaps (id integer, n integer) PARTITION BY RANGE (id);
CREATE TABLE heaps_1 PARTITION OF heaps FOR VALUES FROM (0) TO (10);
INSERT INTO heaps VALUES (1, 1) ON CONFLICT (id) DO NOTHING;
CREATE UNIQUE INDEX ON heaps (id);
INSERT INTO heaps VALUES (1, 1), (1, 2) ON CONFLICT (id) DO NOTHING RETURNING *;

DROP TABLE part, heaps;
DROP FOREIGN TABLE part_d;
\set VERBOSITY terse
DROP SCHEMA on_aidb, on_heap CASCADE;
DROP FUNCTION compare, add, item_key;
DROP ROLE on_conflict_user;
