--
-- Reading rows: by key, by range, in order, and through the rest of the executor.
--
CREATE FOREIGN TABLE reading (
	device integer,
	taken timestamptz,
	value double precision,
	note text,
	PRIMARY KEY (device, taken)
) SERVER aidb;
INSERT INTO reading
SELECT device, timestamptz '2024-01-01 00:00+00' + hour * interval '1 hour', device * 100 + hour, 'h' || hour
FROM generate_series(1, 5) device, generate_series(0, 23) hour;

-- one row, part of a key, ranges
SELECT value, note FROM reading WHERE device = 3 AND taken = '2024-01-01 07:00+00';
SELECT count(*), min(value), max(value) FROM reading WHERE device = 3;
SELECT value FROM reading WHERE device = 3 AND taken > '2024-01-01 20:00+00' ORDER BY taken;
SELECT value FROM reading WHERE device = 3 AND taken >= '2024-01-01 20:00+00' AND taken < '2024-01-01 23:00+00' ORDER BY taken DESC;
SELECT count(*) FROM reading WHERE device > 1 AND device <= 3;
SELECT device, value FROM reading WHERE device IN (4, 2, 4, NULL) AND taken BETWEEN '2024-01-01 05:00+00' AND '2024-01-01 06:00+00' ORDER BY device, taken;
SELECT device, value FROM reading WHERE device IN (5, 1) AND taken IN ('2024-01-01 05:00+00', '2024-01-01 02:00+00') ORDER BY device DESC, taken DESC;
SELECT device, value FROM reading WHERE (device, taken) > (4, '2024-01-01 22:00+00') ORDER BY device, taken LIMIT 3;

-- contradictions, nulls, values that the column cannot have
SELECT count(*) FROM reading WHERE device > 4 AND device < 4;
SELECT count(*) FROM reading WHERE device = 3 AND device = 4;
SELECT count(*) FROM reading WHERE device = NULL::integer OR device > NULL::integer;
SELECT count(*) FROM reading WHERE device = 3000000000;
SELECT count(*) FROM reading WHERE device < 3000000000 AND device > -3000000000;
SELECT count(*) FROM reading WHERE device > 3000000000;
SELECT count(*) FROM reading WHERE device IN (3000000000, 2);
SELECT count(*) FROM reading WHERE 2::smallint = device AND 4::bigint > device;

-- order and limits without a sort
SELECT device, value FROM reading ORDER BY device, taken LIMIT 2;
SELECT device, value FROM reading ORDER BY device DESC, taken DESC LIMIT 2 OFFSET 23;
SELECT min(taken), max(taken) FROM reading WHERE device = 2;
SELECT DISTINCT ON (device) device, taken, value FROM reading ORDER BY device, taken;

-- values that are known at execution only
PREPARE by_device(integer, bigint) AS SELECT count(*), min(device), max(device) FROM reading WHERE device >= $1 AND device <= $2;
PREPARE by_devices(integer[]) AS SELECT device, count(*) FROM reading WHERE device = ANY ($1) GROUP BY device ORDER BY device;
SET plan_cache_mode = force_generic_plan;
EXECUTE by_device(2, 3);
EXECUTE by_device(2, 4000000000);
EXECUTE by_device(NULL, 3);
EXECUTE by_devices('{5, 2, 5, NULL, 77}');
EXECUTE by_devices(NULL);
EXECUTE by_devices('{}');
RESET plan_cache_mode;
SELECT count(*) FROM reading WHERE device = (SELECT max(device) FROM reading);
SELECT count(*) FROM reading WHERE taken >= now() - interval '1 day' AND device = length('four');

-- joins
CREATE TABLE device (id integer, at timestamptz, name text);
INSERT INTO device VALUES (2, '2024-01-01 03:00+00', 'two'), (4, '2024-01-01 09:00+00', 'four'), (9, NULL, 'nine'), (NULL, '2024-01-01 03:00+00', 'none');
ANALYZE device;
SELECT name, value FROM device JOIN reading ON device = id AND taken = at ORDER BY name;
SELECT name, count(value) FROM device LEFT JOIN reading ON device = id AND taken >= at GROUP BY name ORDER BY name;
SELECT name FROM device WHERE EXISTS (SELECT FROM reading WHERE device = id) ORDER BY name;
SELECT name FROM device WHERE id NOT IN (SELECT device FROM reading) ORDER BY name;
SELECT name, last.value FROM device, LATERAL (SELECT value FROM reading WHERE device = id ORDER BY taken DESC LIMIT 1) last ORDER BY name;
SELECT a.value, b.value FROM reading a JOIN reading b ON b.device = a.device + 1 AND b.taken = a.taken WHERE a.device = 1 AND a.value < 103 ORDER BY 1;
SELECT name, (SELECT sum(value) FROM reading WHERE device = id) FROM device ORDER BY name;

-- whole rows, system columns, expressions
SELECT r FROM reading r WHERE device = 1 AND taken = '2024-01-01 00:00+00';
SELECT tableoid::regclass, device FROM reading WHERE device = 1 AND taken = '2024-01-01 00:00+00';
SELECT 1 FROM reading LIMIT 1;

-- text: equality under any collation, ranges in byte order only under "C"
CREATE FOREIGN TABLE word (
	bytes text COLLATE "C",
	human text COLLATE "en-x-icu",
	length integer,
	PRIMARY KEY (bytes, human)
) SERVER aidb;
INSERT INTO word SELECT w, w, length(w) FROM unnest(ARRAY['', 'a', 'B', 'ab', 'Ab', 'é', 'z', repeat('k', 500)]) w;
SELECT left(bytes, 5) AS bytes FROM word WHERE bytes >= 'A' AND bytes < 'b' ORDER BY bytes;
SELECT left(human, 5) AS human FROM word WHERE human >= 'A' AND human < 'b' ORDER BY human;
SELECT bytes FROM word WHERE bytes = 'é' COLLATE "en-x-icu";
SELECT bytes FROM word WHERE bytes > 'a' COLLATE "en-x-icu" AND length < 100 ORDER BY bytes COLLATE "C";
SELECT bytes, human FROM word WHERE bytes = 'ab' AND human = 'ab';
SELECT count(*) FROM word WHERE bytes = repeat('k', 500) AND human = repeat('k', 500);
-- longer than any key
SELECT count(*) FROM word WHERE bytes = repeat('k', 5000);
SELECT count(*) FROM word WHERE bytes < repeat('k', 5000);
SELECT count(*) FROM word WHERE bytes > repeat('k', 5000);
SELECT count(*) FROM word WHERE bytes = repeat('k', 1016) AND human > 'a' COLLATE "C";

-- booleans stand for themselves
CREATE FOREIGN TABLE task (done boolean, id smallint, PRIMARY KEY (done, id)) SERVER aidb;
INSERT INTO task SELECT id % 3 = 0, id FROM generate_series(1, 9) id;
SELECT id FROM task WHERE done AND id > 3 ORDER BY id;
SELECT id FROM task WHERE NOT done AND id BETWEEN 3 AND 7 ORDER BY id DESC;
SELECT count(*) FROM task WHERE id < 40000 AND done IN (true, false);

-- cursors, both ways; a cursor does not see what comes after it
BEGIN;
DECLARE forth SCROLL CURSOR FOR SELECT id FROM task WHERE NOT done ORDER BY id;
FETCH 2 FROM forth;
FETCH BACKWARD 1 FROM forth;
INSERT INTO task VALUES (false, 100);
FETCH ALL FROM forth;
FETCH LAST FROM forth;
SELECT max(id) FROM task;
ROLLBACK;

-- statistics
ANALYZE reading;
SELECT reltuples FROM pg_class WHERE oid = 'reading'::regclass;
SELECT attname, n_distinct FROM pg_stats WHERE tablename = 'reading' ORDER BY attname;
SET default_statistics_target = 1;
INSERT INTO task SELECT false, id FROM generate_series(10, 2000) id;
ANALYZE task;
SELECT reltuples FROM pg_class WHERE oid = 'task'::regclass;
RESET default_statistics_target;

-- row locks
SELECT id FROM task WHERE done AND id = 3 FOR UPDATE;
SELECT name FROM device JOIN reading ON device = id ORDER BY taken DESC, id LIMIT 2 FOR SHARE;
SELECT name, value FROM device JOIN reading ON device = id AND taken = at ORDER BY name FOR UPDATE OF device;

DROP FOREIGN TABLE reading, word, task;
DROP TABLE device;
