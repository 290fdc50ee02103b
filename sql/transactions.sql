-- Transactions as one session sees them: own writes, savepoints, cursors, functions, and what is refused.
CREATE FOREIGN TABLE item (id int PRIMARY KEY, v text) SERVER aidb;
CREATE TABLE heap_item (id int PRIMARY KEY, v text);

-- own writes are seen, and undone
BEGIN;
INSERT INTO item VALUES (1, 'one'), (2, 'two');
UPDATE item SET v = 'zwei' WHERE id = 2;
DELETE FROM item WHERE id = 1;
INSERT INTO item VALUES (1, 'eins');
SELECT * FROM item ORDER BY id;
ROLLBACK;
SELECT count(*) FROM item;
-- inserted and deleted again: nothing is left, and the key is free
BEGIN;
INSERT INTO item VALUES (1, 'one');
DELETE FROM item WHERE id = 1;
COMMIT;
INSERT INTO item VALUES (1, 'one'), (2, 'two'), (3, 'three');

-- a statement does not meet its own rows
UPDATE item SET id = id + 10;
INSERT INTO item SELECT id + 100, v FROM item;
SELECT * FROM item ORDER BY id;

-- savepoints, by hand and by exception blocks
BEGIN;
DELETE FROM item WHERE id > 100;
SAVEPOINT a;
UPDATE item SET v = upper(v);
SAVEPOINT b;
INSERT INTO item VALUES (50, 'fifty');
ROLLBACK TO b;
SELECT * FROM item ORDER BY id;
ROLLBACK TO a;
COMMIT;
DO $$
BEGIN
	FOR i IN 11 .. 14 LOOP
		BEGIN
			INSERT INTO item VALUES (i, 'loop'), (i + 20, 'loop');
		EXCEPTION WHEN unique_violation THEN
			RAISE NOTICE '% is there', i;
		END;
	END LOOP;
END $$;
SELECT * FROM item ORDER BY id;

-- a cursor keeps to its snapshot and to the writes before it, through a flush as well
BEGIN;
UPDATE item SET v = 'before' WHERE id = 11;
DECLARE c CURSOR FOR SELECT * FROM item ORDER BY id;
FETCH 1 FROM c;
UPDATE item SET v = 'after';
DELETE FROM item WHERE id = 13;
SELECT aidb.flush();
FETCH ALL FROM c;
ROLLBACK;
BEGIN;
DECLARE h CURSOR WITH HOLD FOR SELECT id FROM item ORDER BY id DESC;
INSERT INTO item VALUES (90, 'later');
COMMIT;
FETCH 2 FROM h;
CLOSE h;

-- heap and AiDb together
BEGIN;
INSERT INTO heap_item SELECT * FROM item;
DELETE FROM item WHERE id = 90;
COMMIT;
SELECT count(*) FROM heap_item h WHERE NOT EXISTS (SELECT FROM item i WHERE i.id = h.id);
BEGIN;
DELETE FROM heap_item;
DELETE FROM item;
ROLLBACK;
SELECT (SELECT count(*) FROM heap_item) AS heap, (SELECT count(*) FROM item) AS aidb;
-- a deferred constraint fails at commit: both halves go
UPDATE heap_item SET v = id;
ALTER TABLE heap_item ADD CONSTRAINT twice UNIQUE (v) DEFERRABLE INITIALLY DEFERRED;
BEGIN;
INSERT INTO item VALUES (200, 'gone');
INSERT INTO heap_item VALUES (200, '11');
COMMIT;
SELECT count(*) FROM item WHERE id = 200;

-- an error after AiDb has prepared its part, and asynchronous commits
SET aidb.fault_point = 'precommit_prepared=error';
BEGIN;
INSERT INTO heap_item VALUES (300, '300');
INSERT INTO item VALUES (300, 'gone');
COMMIT;
SET aidb.fault_point = 'precommit_reserved=error';
INSERT INTO item VALUES (301, 'gone');
RESET aidb.fault_point;
SELECT count(*) FROM item WHERE id >= 300;
SET synchronous_commit = off;
INSERT INTO item VALUES (400, 'lazy');
BEGIN;
INSERT INTO heap_item VALUES (401, '401');
INSERT INTO item VALUES (401, 'lazy');
COMMIT;
RESET synchronous_commit;
SELECT * FROM item WHERE id >= 300 ORDER BY id;

-- many rows: more than one record of the log takes
BEGIN;
INSERT INTO item SELECT i, repeat('x', 500) FROM generate_series(1000, 31000) i;
SELECT count(*) FROM item WHERE id >= 1000;
COMMIT;
SELECT count(*), sum(id) FROM item WHERE id >= 1000;
BEGIN;
DELETE FROM item WHERE id >= 1000;
ROLLBACK;
SELECT count(*) FROM item WHERE id >= 1000;
DELETE FROM item WHERE id >= 1000;
SELECT count(*) FROM item WHERE id >= 1000;

-- a trigger that changes the row which its statement is about to change
CREATE FUNCTION change_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() < 2 THEN
		UPDATE item SET v = 'by the trigger' WHERE id = NEW.id;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER change_it BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION change_it();
UPDATE item SET v = 'by the statement' WHERE id = 11;
DROP TRIGGER change_it ON item;

-- who is notified is to find the row: then PostgreSQL's commit is ours, and there is no other after it
SET aidb.fault_point = 'precommit_reserved=error';
BEGIN;
NOTIFY somebody;
UPDATE item SET v = 'told' WHERE id = 11;
COMMIT;
BEGIN;
SELECT pg_notify('somebody', 'once more');
UPDATE item SET v = v || ' twice' WHERE id = 11;
COMMIT;
UPDATE item SET v = 'not told' WHERE id = 11;
RESET aidb.fault_point;
SELECT v FROM item WHERE id = 11;

-- two phases
BEGIN;
INSERT INTO item VALUES (500, 'x');
PREPARE TRANSACTION 'p';
SELECT count(*) FROM item WHERE id = 500;
SELECT * FROM item WHERE id = 11 FOR UPDATE;
SELECT * FROM item WHERE id = 11 FOR UPDATE SKIP LOCKED;
COMMIT PREPARED 'p';
SELECT count(*) FROM item WHERE id = 500;
BEGIN;
DELETE FROM item WHERE id = 500;
PREPARE TRANSACTION 'p';
ROLLBACK PREPARED 'p';
DELETE FROM item WHERE id = 500;

-- refused, and never something weaker instead
BEGIN READ ONLY;
SELECT count(*) FROM item WHERE id = 11;
INSERT INTO item VALUES (500, 'x');
ROLLBACK;
CREATE FUNCTION count_items() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT count(*) FROM item); END';
SET force_parallel_mode = on;
SELECT count_items();
RESET force_parallel_mode;
ALTER FUNCTION count_items() PARALLEL RESTRICTED;
SET force_parallel_mode = on;
SELECT count_items() > 0 AS counted;
RESET force_parallel_mode;

DROP FUNCTION count_items();
DROP FOREIGN TABLE item;
DROP FUNCTION change_it();
DROP TABLE heap_item;
