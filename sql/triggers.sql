--
-- Triggers on AiDb tables. What compare() is given runs on an AiDb table and on a heap table, and must do the same and
-- set off the same.
--
-- both go through rows in the order of the key
SET enable_seqscan = off;
SET enable_bitmapscan = off;

CREATE SCHEMA on_aidb;
CREATE SCHEMA on_heap;
CREATE TABLE on_aidb.log (id serial, line text);
CREATE TABLE on_heap.log (id serial, line text);

CREATE FUNCTION compare(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	side text;
	line record;
	lines text[];
	expected text[];
BEGIN
	IF statement !~ '^(TABLE|SELECT|WITH)' AND statement !~ 'RETURNING' THEN
		statement := statement || ' RETURNING *';
	END IF;
	FOREACH side IN ARRAY '{on_heap, on_aidb}'::text[] LOOP
		PERFORM set_config('search_path', side || ', public', true);
		DELETE FROM log;
		lines := '{}';
		BEGIN
			FOR line IN EXECUTE statement LOOP
				lines := lines || ('returns ' || line::text);
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			lines := ARRAY[SQLSTATE || ' ' || replace(replace(SQLERRM, 'foreign table', 'table'), 'updated or deleted', 'updated')];
		END;
		FOR line IN SELECT log.line FROM log ORDER BY id LOOP
			lines := lines || line.line;
		END LOOP;
		IF side = 'on_heap' THEN
			expected := lines;
		ELSIF lines IS DISTINCT FROM expected THEN
			RAISE 'AiDb: %, heap: %', lines, expected;
		END IF;
	END LOOP;
	RETURN QUERY SELECT unnest(lines);
END $$;
CREATE PROCEDURE twice(statement text) LANGUAGE plpgsql AS $$
DECLARE
	side text;
BEGIN
	FOREACH side IN ARRAY '{on_heap, on_aidb}'::text[] LOOP
		PERFORM set_config('search_path', side || ', public', true);
		EXECUTE CASE side WHEN 'on_aidb' THEN replace(statement, 'ALTER TABLE', 'ALTER FOREIGN TABLE') ELSE statement END;
	END LOOP;
END $$;

CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_LEVEL = 'STATEMENT' THEN
		EXECUTE format('INSERT INTO %I.log (line) VALUES ($1)', TG_TABLE_SCHEMA)
			USING concat_ws(' ', TG_NAME, TG_WHEN, TG_LEVEL, TG_OP, TG_ARGV[0]);
		RETURN NULL;
	END IF;
	EXECUTE format('INSERT INTO %I.log (line) VALUES ($1)', TG_TABLE_SCHEMA)
		USING concat_ws(' ', TG_NAME, TG_WHEN, TG_OP, TG_ARGV[0], CASE WHEN TG_OP <> 'INSERT' THEN OLD::text END, '->',
			CASE WHEN TG_OP <> 'DELETE' THEN NEW::text END);
	RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE FOREIGN TABLE on_aidb.item (
	id integer PRIMARY KEY, n integer NOT NULL CHECK (n < 1000), twice integer GENERATED ALWAYS AS (n * 2) STORED
) SERVER aidb;
CREATE TABLE on_heap.item (
	id integer PRIMARY KEY, n integer NOT NULL CHECK (n < 1000), twice integer GENERATED ALWAYS AS (n * 2) STORED
);
CALL twice($$CREATE TRIGGER a_before BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION note('argument')$$);
CALL twice($$CREATE TRIGGER b_after AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER c_before BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH STATEMENT EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER d_after AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH STATEMENT EXECUTE FUNCTION note('last')$$);

-- which fire, in which order, and with what
SELECT compare($$INSERT INTO item VALUES (1, 1), (2, 2)$$);
SELECT compare($$UPDATE item SET n = n + 10 WHERE id <= 2$$);
SELECT compare($$UPDATE item SET id = 3 WHERE id = 1$$);
SELECT compare($$DELETE FROM item WHERE id = 3$$);
SELECT compare($$UPDATE item SET n = 0 WHERE id = 100$$);
SELECT compare($$INSERT INTO item VALUES (4, 4), (2, 2)$$);
SELECT compare($$INSERT INTO item VALUES (4, 1000)$$);
SELECT compare($$WITH added AS (INSERT INTO item VALUES (4, 4) RETURNING id), gone AS (DELETE FROM item WHERE id = 2 RETURNING id)
	SELECT added.id, gone.id FROM added, gone$$);
-- ON CONFLICT: BEFORE INSERT always, then what is done
SELECT compare($$INSERT INTO item VALUES (4, 1), (5, 5) ON CONFLICT (id) DO NOTHING$$);
SELECT compare($$INSERT INTO item VALUES (4, 1), (6, 6), (5, 7) ON CONFLICT (id) DO UPDATE SET n = item.n + EXCLUDED.n$$);
SELECT compare($$INSERT INTO item VALUES (4, 1), (5, 7) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n WHERE item.n < 10$$);
SELECT compare($$INSERT INTO item VALUES (4, 1) ON CONFLICT (id) DO UPDATE SET id = 7$$);
SELECT compare($$INSERT INTO item VALUES (7, 1) ON CONFLICT (id) DO UPDATE SET n = 1000$$);
SELECT compare($$TABLE item ORDER BY id$$);

-- some columns, conditions, and triggers that are off
CALL twice($$DROP TRIGGER a_before ON item; DROP TRIGGER b_after ON item; DROP TRIGGER c_before ON item; DROP TRIGGER d_after ON item$$);
CALL twice($$CREATE TRIGGER of_n BEFORE UPDATE OF n ON item FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER of_twice AFTER UPDATE OF twice ON item FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER of_id AFTER UPDATE OF id ON item FOR EACH STATEMENT EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER when_more AFTER UPDATE ON item FOR EACH ROW WHEN (NEW.n > OLD.n) EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER when_six BEFORE INSERT OR UPDATE ON item FOR EACH ROW WHEN (NEW.id = 6) EXECUTE FUNCTION note()$$);
SELECT compare($$UPDATE item SET n = n + 1 WHERE id > 5$$);
SELECT compare($$UPDATE item SET n = n - 1 WHERE id > 5$$);
SELECT compare($$UPDATE item SET id = id + 1 WHERE id = 7$$);
SELECT compare($$INSERT INTO item VALUES (5, 100), (6, 0) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n$$);
SELECT compare($$INSERT INTO item VALUES (5, 100) ON CONFLICT (id) DO UPDATE SET id = item.id$$);
CALL twice($$ALTER TABLE item DISABLE TRIGGER when_six$$);
CALL twice($$ALTER TABLE item ENABLE REPLICA TRIGGER of_n$$);
SELECT compare($$UPDATE item SET n = n + 1 WHERE id = 6$$);
SET session_replication_role = replica;
SELECT compare($$UPDATE item SET n = n + 1 WHERE id = 6$$);
RESET session_replication_role;
CALL twice($$DROP TRIGGER of_n ON item; DROP TRIGGER of_twice ON item; DROP TRIGGER of_id ON item; DROP TRIGGER when_more ON item; DROP TRIGGER when_six ON item$$);

-- triggers that change rows, turn them away, or fail
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		RETURN CASE WHEN OLD.n < 0 THEN NULL ELSE OLD END;
	END IF;
	CASE NEW.n
		WHEN 100 THEN NEW.n := 101;
		WHEN 200 THEN RETURN NULL;
		WHEN 300 THEN RAISE 'not %', NEW.n;
		WHEN 400 THEN NEW.id := NEW.id + 400;
		WHEN 500 THEN NEW.n := NULL;
		WHEN 600 THEN RETURN OLD;
		WHEN 700 THEN NEW.twice := 7;
		ELSE NULL;
	END CASE;
	RETURN NEW;
END $$;
CALL twice($$CREATE TRIGGER change BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION change()$$);
CALL twice($$CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION note()$$);
SELECT compare($$INSERT INTO item VALUES (10, 100), (11, 200), (12, 400), (13, 700), (14, -1)$$);
SELECT compare($$INSERT INTO item VALUES (11, 300)$$);
SELECT compare($$INSERT INTO item VALUES (11, 500)$$);
SELECT compare($$UPDATE item SET n = CASE id WHEN 10 THEN 200 WHEN 412 THEN 401 WHEN 13 THEN 600 ELSE 100 END WHERE id >= 10$$);
SELECT compare($$UPDATE item SET n = 400 WHERE id = 10$$);
SELECT compare($$UPDATE item SET n = 400 WHERE id = 10 OR id = 410$$);
SELECT compare($$UPDATE item SET n = 500 WHERE id = 13$$);
SELECT compare($$UPDATE item SET n = -1 WHERE id = 13$$);
SELECT compare($$DELETE FROM item WHERE id >= 13$$);
SELECT compare($$INSERT INTO item VALUES (13, 1) ON CONFLICT (id) DO UPDATE SET n = 100$$);
SELECT compare($$INSERT INTO item VALUES (13, 1) ON CONFLICT (id) DO UPDATE SET n = 200$$);
SELECT compare($$INSERT INTO item VALUES (13, 200) ON CONFLICT (id) DO UPDATE SET n = 1$$);
SELECT compare($$INSERT INTO item VALUES (13, 1) ON CONFLICT (id) DO UPDATE SET n = 300$$);
SELECT compare($$INSERT INTO item VALUES (13, 1) ON CONFLICT (id) DO UPDATE SET n = 400$$);
SELECT compare($$INSERT INTO item VALUES (413, 1) ON CONFLICT (id) DO UPDATE SET n = 500$$);
SELECT compare($$INSERT INTO item VALUES (413, 1) ON CONFLICT (id) DO UPDATE SET n = 600$$);
SELECT compare($$INSERT INTO item VALUES (413, 1) ON CONFLICT (id) DO UPDATE SET n = 700$$);
SELECT compare($$INSERT INTO item VALUES (13, 400) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.id$$);
COPY on_aidb.item (id, n) FROM stdin;
20	100
21	200
22	400
\.
SELECT * FROM on_aidb.item WHERE id BETWEEN 20 AND 22 OR id = 422 ORDER BY id;
DELETE FROM on_aidb.item WHERE id = 20 OR id = 422;
SELECT compare($$TABLE item ORDER BY id$$);
CALL twice($$DROP TRIGGER change ON item; DROP TRIGGER note ON item$$);

-- triggers that write to the table themselves, and what they see
CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	SELECT string_agg(id || ':' || n, ' ' ORDER BY id) INTO seen FROM item;
	INSERT INTO log (line) VALUES (concat_ws(' ', TG_NAME, TG_OP, 'sees', seen));
	IF pg_trigger_depth() = 1 AND NEW.n = 30 THEN
		INSERT INTO item VALUES (NEW.id + 1, 31) ON CONFLICT (id) DO UPDATE SET n = item.n + 1;
	ELSIF pg_trigger_depth() = 1 AND NEW.n = 40 THEN
		UPDATE item SET n = 41 WHERE id = NEW.id;
	ELSIF pg_trigger_depth() = 1 AND NEW.n = 50 THEN
		DELETE FROM item WHERE id = NEW.id;
	END IF;
	RETURN NEW;
END $$;
CALL twice($$DELETE FROM item$$);
CALL twice($$CREATE TRIGGER spread BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION spread()$$);
SELECT compare($$INSERT INTO item VALUES (1, 1), (2, 30), (4, 30)$$);
SELECT compare($$INSERT INTO item VALUES (2, 30) ON CONFLICT (id) DO UPDATE SET n = 30$$);
SELECT compare($$UPDATE item SET n = 40 WHERE id = 1$$);
SELECT compare($$UPDATE item SET n = 50 WHERE id = 1$$);
SELECT compare($$INSERT INTO item VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = 40$$);
SELECT compare($$INSERT INTO item VALUES (1, 40) ON CONFLICT (id) DO UPDATE SET n = 2$$);
SELECT compare($$INSERT INTO item VALUES (1, 50) ON CONFLICT (id) DO UPDATE SET n = 2$$);
SELECT compare($$INSERT INTO item VALUES (4, 30), (5, 30) ON CONFLICT (id) DO NOTHING$$);
CALL twice($$DROP TRIGGER spread ON item$$);
CALL twice($$CREATE TRIGGER spread AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION spread()$$);
SELECT compare($$INSERT INTO item VALUES (10, 30), (12, 40), (13, 50)$$);
SELECT compare($$UPDATE item SET n = CASE id WHEN 10 THEN 30 WHEN 11 THEN 40 ELSE 50 END WHERE id BETWEEN 10 AND 12$$);
SELECT compare($$INSERT INTO item VALUES (10, 1), (11, 1), (12, 50) ON CONFLICT (id) DO UPDATE SET n = CASE item.id WHEN 10 THEN 40 ELSE 50 END$$);
SELECT compare($$TABLE item ORDER BY id$$);
CALL twice($$DROP TRIGGER spread ON item$$);

-- savepoints take back what triggers did
CALL twice($$CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION note()$$);
SET search_path = on_aidb, public;
DELETE FROM log;
BEGIN;
INSERT INTO item VALUES (60, 1);
SAVEPOINT one;
INSERT INTO item VALUES (60, 1) ON CONFLICT (id) DO UPDATE SET n = item.n + 1;
SELECT line FROM log ORDER BY id;
ROLLBACK TO one;
INSERT INTO item VALUES (60, 1) ON CONFLICT (id) DO UPDATE SET n = item.n + 5;
COMMIT;
SELECT line FROM log ORDER BY id;
RESET search_path;
CALL twice($$DELETE FROM item; DROP TRIGGER note ON item$$);

-- triggers of a partitioned table, and of its partitions
CREATE TABLE on_aidb.part (id integer, n integer) PARTITION BY RANGE (id);
CREATE TABLE on_heap.part (id integer, n integer) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE on_aidb.part_1 (n integer, id integer PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE on_aidb.part_2 (id integer PRIMARY KEY, n integer) SERVER aidb;
CREATE TABLE on_heap.part_1 (n integer, id integer);
CREATE TABLE on_heap.part_2 (id integer, n integer);
CALL twice($$CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON part FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER after AFTER INSERT OR UPDATE OR DELETE ON part FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE ON part FOR EACH STATEMENT EXECUTE FUNCTION note()$$);
ALTER TABLE on_aidb.part ATTACH PARTITION on_aidb.part_1 FOR VALUES FROM (0) TO (10);
ALTER TABLE on_aidb.part ATTACH PARTITION on_aidb.part_2 FOR VALUES FROM (10) TO (20);
ALTER TABLE on_heap.part ATTACH PARTITION on_heap.part_1 FOR VALUES FROM (0) TO (10);
ALTER TABLE on_heap.part ATTACH PARTITION on_heap.part_2 FOR VALUES FROM (10) TO (20);
ALTER TABLE on_heap.part ADD PRIMARY KEY (id);
CALL twice($$CREATE TRIGGER own AFTER INSERT OR UPDATE OR DELETE ON part_1 FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL twice($$CREATE TRIGGER own_statement AFTER INSERT OR UPDATE OR DELETE ON part_1 FOR EACH STATEMENT EXECUTE FUNCTION note()$$);
SELECT compare($$INSERT INTO part VALUES (1, 1), (11, 1)$$);
SELECT compare($$INSERT INTO part VALUES (1, 2), (2, 2), (11, 2), (12, 2) ON CONFLICT (id) DO UPDATE SET n = part.n + EXCLUDED.n$$);
SELECT compare($$INSERT INTO part VALUES (1, 2), (3, 2) ON CONFLICT (id) DO NOTHING$$);
SELECT compare($$UPDATE part SET n = 10 WHERE id % 10 = 1$$);
SELECT compare($$UPDATE part_1 SET n = 11 WHERE id > 0$$);
SELECT compare($$DELETE FROM part WHERE id % 10 = 1$$);

-- INSTEAD OF triggers of views
CREATE FUNCTION put_item() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO item VALUES (NEW.id, NEW.n) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n;
	RETURN NEW;
END $$;
CALL twice($$CREATE VIEW shown AS SELECT id, n FROM item$$);
CALL twice($$CREATE TRIGGER put INSTEAD OF INSERT ON shown FOR EACH ROW EXECUTE FUNCTION put_item()$$);
SELECT compare($$INSERT INTO shown VALUES (1, 1), (1, 2), (2, 2)$$);
SELECT compare($$TABLE shown ORDER BY id$$);

-- what core refuses for foreign tables
SET search_path = on_aidb, public;
CREATE TRIGGER refused INSTEAD OF INSERT ON item FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER refused AFTER TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE TRIGGER refused AFTER INSERT ON item REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON item DEFERRABLE FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER collected AFTER INSERT ON part REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note();
INSERT INTO part VALUES (5, 5);
DROP TRIGGER collected ON part;
CREATE TRIGGER collected AFTER UPDATE ON part REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note();
INSERT INTO part VALUES (2, 5) ON CONFLICT (id) DO UPDATE SET n = 5;
DROP TRIGGER collected ON part;
RESET search_path;

\set VERBOSITY terse
DROP SCHEMA on_aidb, on_heap CASCADE;
DROP PROCEDURE twice;
DROP FUNCTION compare, note, change, spread, put_item;
