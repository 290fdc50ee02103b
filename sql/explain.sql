--
-- Plans: which qualifiers select by key, what order is promised, and when joins look rows up.
--
CREATE FOREIGN TABLE event (
	device integer,
	number bigint,
	name text COLLATE "en-x-icu",
	value integer,
	PRIMARY KEY (device, number, name)
) SERVER aidb;
CREATE FOREIGN TABLE person (id bigint, name text, PRIMARY KEY (id)) SERVER aidb;
INSERT INTO event SELECT d, n, 'e', d * n FROM generate_series(1, 20) d, generate_series(1, 50) n;
INSERT INTO person SELECT g, 'p' || g FROM generate_series(1, 2000) g;

-- one row, several, ranges
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id = 5;
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE 5 = id AND name <> 'x';
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id IN (5, 7);
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id >= 5 AND id < 9::smallint;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = 5 AND number = 7 AND name = 'x';
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = 5 AND number > 7 AND value > 3;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device IN (5, 6) AND number = 7;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device IN (5, 6) AND number IN (7, 8) AND name IN ('x', 'y');
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE (device, number) >= (5, 7);
-- not by key: a later column alone, an expression of the row, order that is not that of bytes, other operators
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE number = 7;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = value;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device + 1 = 5;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = 5 AND number = 7 AND name > 'x';
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id <> 5;
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id = 5.0;
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id = (random() * 10)::integer;
-- known at execution
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id = (SELECT max(number) FROM event);
SET plan_cache_mode = force_generic_plan;
PREPARE one(bigint) AS SELECT * FROM person WHERE id = $1;
EXPLAIN (COSTS OFF) EXECUTE one(5);
PREPARE several(integer[], bigint) AS SELECT * FROM event WHERE device = ANY ($1) AND number < $2;
EXPLAIN (COSTS OFF) EXECUTE several('{1,2}', 3);
RESET plan_cache_mode;

-- order
EXPLAIN (COSTS OFF) SELECT * FROM person ORDER BY id LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM person ORDER BY id DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id > 100 ORDER BY id DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT max(id) FROM person;
EXPLAIN (COSTS OFF) SELECT * FROM event ORDER BY device, number LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = 5 ORDER BY number DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device IN (5, 6) ORDER BY device, number LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM event WHERE device = 5 AND number = 7 ORDER BY name LIMIT 3;
EXPLAIN (COSTS OFF) SELECT * FROM event ORDER BY device, number DESC LIMIT 3;
EXPLAIN (COSTS OFF) SELECT device, number FROM event GROUP BY device, number LIMIT 3;

-- joins: few rows are looked up, many are read through
CREATE TABLE few (person bigint, device integer);
INSERT INTO few VALUES (1, 1), (2000, 20);
CREATE TABLE many AS SELECT g AS person FROM generate_series(1, 20000) g;
ANALYZE few, many;
EXPLAIN (COSTS OFF) SELECT * FROM few JOIN person ON id = person;
EXPLAIN (COSTS OFF) SELECT * FROM few JOIN event ON event.device = few.device AND number = few.person AND event.name = 'e';
EXPLAIN (COSTS OFF) SELECT * FROM few JOIN event USING (device) WHERE number < 10;
EXPLAIN (COSTS OFF) SELECT * FROM few LEFT JOIN person ON id = person;
EXPLAIN (COSTS OFF) SELECT * FROM person WHERE id IN (SELECT person FROM few);
EXPLAIN (COSTS OFF) SELECT * FROM few, LATERAL (SELECT * FROM event WHERE device = few.device ORDER BY number DESC LIMIT 1) last;
EXPLAIN (COSTS OFF) SELECT count(*) FROM many JOIN person ON id = person;
EXPLAIN (COSTS OFF) UPDATE person SET name = 'x' WHERE id = 5;
EXPLAIN (COSTS OFF) DELETE FROM person USING few WHERE id = person;
EXPLAIN (COSTS OFF, VERBOSE) DELETE FROM event WHERE device = 1 RETURNING value;

-- how many rows were read
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM person WHERE id BETWEEN 10 AND 19 AND name LIKE '%5';
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM person WHERE id = 0;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM event WHERE device IN (3, 4, 99) AND number >= 49;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM few JOIN person ON id = person;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM event ORDER BY device, number LIMIT 4;
EXPLAIN (COSTS OFF, FORMAT JSON) SELECT * FROM person WHERE id > 5 ORDER BY id;

-- a key is unique: estimates need no statistics
CREATE FUNCTION estimated_rows(query text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT estimated_rows('SELECT * FROM person WHERE id = 5');
SELECT estimated_rows('SELECT * FROM person WHERE id IN (5, 6, 7)');
SELECT estimated_rows('SELECT * FROM event WHERE device = 1 AND number = 2 AND name = ''e''');
SELECT aidb.flush();
ANALYZE person;
SELECT estimated_rows('SELECT * FROM person') BETWEEN 1000 AND 4000 AS near_2000;
SELECT estimated_rows('SELECT * FROM person WHERE id > 1000') BETWEEN 500 AND 2000 AS near_1000;
SELECT estimated_rows('SELECT * FROM many JOIN person ON id = person') BETWEEN 1000 AND 4000 AS near_2000;

DROP FUNCTION estimated_rows(text);
DROP FOREIGN TABLE event, person;
DROP TABLE few, many;
