-- Row locks in one session: what they leave behind, and whose a write is. Who waits for whom is in the isolation tests.
CREATE FUNCTION locks() RETURNS bigint LANGUAGE sql AS $$
	SELECT value FROM aidb.stats() WHERE name = 'row_locks'
$$;
CREATE FOREIGN TABLE item (k integer PRIMARY KEY, v integer) SERVER aidb;
INSERT INTO item SELECT g, g % 7 FROM generate_series(1, 1000) g;

-- keys that are kept in a temporary file until their rows are locked: they are read back right, and the file is closed
CREATE FOREIGN TABLE wide (k text PRIMARY KEY, v integer) SERVER aidb;
INSERT INTO wide SELECT repeat('key', 100) || g, g FROM generate_series(1, 6000) g;
BEGIN;
SELECT count(*), sum(v), count(DISTINCT k) FROM (SELECT * FROM wide ORDER BY v % 1009, k FOR UPDATE) w;
SELECT locks();
COMMIT;
SELECT locks();

-- subtransactions: one holder for all that have ended
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 5000 LOOP
		BEGIN
			PERFORM FROM item WHERE k = i % 1000 + 1 FOR UPDATE;
			IF i % 3 = 0 THEN
				RAISE division_by_zero;
			END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT locks(), (SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND pid = pg_backend_pid()) AS holders;
COMMIT;
SELECT locks();

-- a row that is locked outside and changed within savepoints again and again has two locks, not one for each change
BEGIN;
SELECT FROM item WHERE k = 1 FOR UPDATE;
SAVEPOINT s;
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		UPDATE item SET v = v + 1 WHERE k = 1;
	END LOOP;
END $$;
SELECT locks();
RELEASE s;
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		BEGIN
			UPDATE item SET v = v + 1 WHERE k = 1;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT locks();
ROLLBACK;
SELECT locks();

-- a statement's writes are its own, whatever triggers and functions write in the middle of it: a row that is found twice
-- is changed once
CREATE TABLE note (k integer);
CREATE FUNCTION take_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO note VALUES (new.k);
	RETURN new;
END $$;
CREATE FUNCTION noted(n integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO note VALUES (n);
	RETURN n;
END $$;
UPDATE item SET v = noted(v) + 100 FROM (VALUES (1), (1), (2), (2)) twice (k) WHERE twice.k = item.k;
SELECT * FROM item WHERE k < 4 ORDER BY k;
CREATE TRIGGER note BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION take_note();
UPDATE item SET v = v + 100 FROM (VALUES (1), (1), (2), (2)) twice (k) WHERE twice.k = item.k;
TRUNCATE note;
WITH
	first AS (UPDATE item SET v = 1 WHERE k = 1 RETURNING k),
	second AS (UPDATE item SET v = 2 WHERE k = 1 RETURNING k)
SELECT (SELECT count(*) FROM first), (SELECT count(*) FROM second);
SELECT * FROM note;
SELECT * FROM item WHERE k < 4 ORDER BY k;

DROP FOREIGN TABLE item, wide;
DROP TABLE note;
DROP FUNCTION locks, take_note, noted;
