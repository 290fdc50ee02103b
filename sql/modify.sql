--
-- Writing rows: INSERT, UPDATE, DELETE, COPY, TRUNCATE, with what PostgreSQL checks and fires around them.
--
CREATE FOREIGN TABLE item (
	id integer,
	kind text COLLATE "C",
	name text NOT NULL,
	price numeric(10, 2) CHECK (price >= 0),
	gross numeric GENERATED ALWAYS AS (price * 1.5) STORED,
	note text DEFAULT 'none',
	PRIMARY KEY (id, kind)
) SERVER aidb;

INSERT INTO item (id, kind, name, price) VALUES (1, 'a', 'one', 1), (2, 'a', 'two', 2), (2, 'b', 'second', NULL)
RETURNING *;
INSERT INTO item (id, kind, name) VALUES (2, 'b', 'again');
INSERT INTO item (id, kind, name) VALUES (3, 'c', 'twice'), (3, 'c', 'in one statement');
INSERT INTO item (id, kind, name) VALUES (NULL, 'c', 'no key');
INSERT INTO item (id, kind, name) VALUES (3, 'c', NULL);
INSERT INTO item (id, kind, name, price) VALUES (3, 'c', 'below', -1);
INSERT INTO item (id, kind, name) SELECT g, 'a', 'n' || g FROM generate_series(1, 5) g ON CONFLICT DO NOTHING;
INSERT INTO item (id, kind, name, price) VALUES (6, repeat('k', 2000), 'key too long', 1);
INSERT INTO item (id, kind, name, price) VALUES (7, 'big', repeat('x', 100000), 1) RETURNING id, length(name);
SELECT id, kind, length(name), price, gross, note FROM item ORDER BY id, kind;

-- UPDATE: other columns, the key, and what must fail
UPDATE item SET price = id * 10 WHERE kind = 'a' AND id <= 3 RETURNING id, kind, price, gross;
UPDATE item SET id = 10, price = price + 1 WHERE id = 1 AND kind = 'a' RETURNING *;
UPDATE item SET kind = kind || '!' WHERE id IN (2, 10) RETURNING id, kind;
UPDATE item SET id = 10, kind = 'a!' WHERE id = 3;
UPDATE item SET name = NULL WHERE id = 3;
UPDATE item SET id = NULL WHERE id = 3;
UPDATE item SET price = -1 WHERE id = 3;
UPDATE item SET id = id WHERE id = 3 RETURNING id;
-- a moved row is not met again
UPDATE item SET id = id + 1000 WHERE id >= 3;
SELECT id, kind FROM item ORDER BY id, kind;
UPDATE item SET note = updates.note FROM (VALUES (1003, 'three'), (1004, 'four'), (1003, 'other')) updates (id, note)
WHERE item.id = updates.id AND updates.note <> 'other' RETURNING item.id, item.note;

-- DELETE gives back rows that are gone
DELETE FROM item WHERE id = 1003 RETURNING *;
DELETE FROM item USING (VALUES (1004), (1005)) gone (id) WHERE item.id = gone.id RETURNING gone.id, item.name, item.gross;
WITH gone AS (DELETE FROM item WHERE id = 2 RETURNING *)
INSERT INTO item (id, kind, name, price) SELECT id + 50, kind, upper(name), price FROM gone RETURNING id, kind, name, note;
DELETE FROM item WHERE kind = 'no such kind';
SELECT id, kind, left(name, 10) AS name FROM item ORDER BY id, kind;

-- transactions and savepoints
BEGIN;
INSERT INTO item (id, kind, name) VALUES (60, 's', 'outer');
SAVEPOINT one;
UPDATE item SET name = 'inner' WHERE id = 60;
DELETE FROM item WHERE id = 52;
INSERT INTO item (id, kind, name) VALUES (61, 's', 'inner');
SELECT id, kind, name FROM item WHERE id < 100 ORDER BY id, kind;
ROLLBACK TO one;
INSERT INTO item (id, kind, name) VALUES (61, 's', 'after');
SELECT id, kind, name FROM item WHERE id < 100 ORDER BY id, kind;
SAVEPOINT two;
INSERT INTO item (id, kind, name) VALUES (61, 's', 'duplicate');
ROLLBACK TO two;
DELETE FROM item WHERE id = 60;
INSERT INTO item (id, kind, name) VALUES (60, 's', 'new life');
COMMIT;
SELECT id, kind, name FROM item WHERE id BETWEEN 60 AND 61 ORDER BY id;
BEGIN;
DELETE FROM item;
SELECT count(*) FROM item;
ROLLBACK;
SELECT count(*) FROM item;

-- a function's later statements see its earlier ones
DO $$
DECLARE
	found integer;
BEGIN
	INSERT INTO item (id, kind, name) VALUES (70, 'f', 'x');
	UPDATE item SET name = name || 'y' WHERE id = 70;
	SELECT length(name) INTO found FROM item WHERE id = 70;
	RAISE NOTICE 'length %', found;
	BEGIN
		INSERT INTO item (id, kind, name) VALUES (70, 'f', 'z');
	EXCEPTION WHEN unique_violation THEN
		RAISE NOTICE 'caught: %', SQLERRM;
	END;
END $$;

-- row triggers: before may change the row and its key, or skip it; after sees what was stored
CREATE FUNCTION show_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_WHEN = 'BEFORE' AND TG_OP <> 'DELETE' THEN
		IF NEW.note = 'skip' THEN RETURN NULL; END IF;
		IF NEW.note = 'move' THEN NEW.id := NEW.id + 1; END IF;
	ELSE
		RAISE NOTICE '% % old % new %', TG_WHEN, TG_OP,
			CASE WHEN TG_OP <> 'INSERT' THEN OLD::text END, CASE WHEN TG_OP <> 'DELETE' THEN NEW::text END;
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION show_row();
CREATE TRIGGER after AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION show_row();
INSERT INTO item (id, kind, name, note) VALUES (80, 't', 'stays', 'x'), (81, 't', 'skipped', 'skip'), (82, 't', 'moves', 'move');
UPDATE item SET price = 5 WHERE id = 80;
UPDATE item SET note = 'move' WHERE id = 80 RETURNING id;
UPDATE item SET note = 'skip' WHERE id = 81;
DELETE FROM item WHERE id = 81 RETURNING name;

-- COPY
COPY item (id, kind, name, price, note) FROM stdin;
90	c	ninety	1.5	\N
91	c	skipped	1.5	skip
\.
DROP TRIGGER before ON item;
DROP TRIGGER after ON item;
COPY item (id, kind, name, price) FROM stdin;
92	c	fine	1
90	c	duplicate	1
\.
COPY item (id, kind, name, price) FROM stdin;
93	c	negative	-1
\.
COPY item (id, kind, name) FROM stdin;
94	c	\N
\.
COPY (SELECT id, kind, gross FROM item WHERE id BETWEEN 85 AND 95 ORDER BY id) TO stdout;
INSERT INTO item (id, kind, name) SELECT g, 'bulk', 'row ' || g FROM generate_series(1, 3000) g;
SELECT count(*), sum(id) FROM item WHERE kind = 'bulk';
INSERT INTO item (id, kind, name) SELECT id, 'copy', name FROM item WHERE kind = 'bulk';
SELECT count(*), count(DISTINCT kind) FROM item WHERE kind IN ('bulk', 'copy');

-- a view with a check option
CREATE VIEW cheap AS SELECT id, kind, name, price FROM item WHERE price < 100 WITH CHECK OPTION;
INSERT INTO cheap VALUES (5000, 'v', 'dear', 100);
INSERT INTO cheap VALUES (5000, 'v', 'cheap', 99) RETURNING *;
UPDATE cheap SET price = 500 WHERE id = 5000;
DELETE FROM cheap WHERE id = 5000 RETURNING *;
DROP VIEW cheap;

-- TRUNCATE
BEGIN;
TRUNCATE item;
SELECT count(*) FROM item;
INSERT INTO item (id, kind, name) VALUES (1, 'a', 'in an empty table');
SELECT id, name FROM item;
ROLLBACK;
SELECT count(*) > 6000 AS all_back FROM item;
TRUNCATE item;
SELECT count(*) FROM item;
INSERT INTO item (id, kind, name) VALUES (1, 'a', 'first again');
CREATE FOREIGN TABLE numbered (id serial, name text, PRIMARY KEY (id)) SERVER aidb;
INSERT INTO numbered (name) VALUES ('x'), ('y');
TRUNCATE item, numbered RESTART IDENTITY;
INSERT INTO numbered (name) VALUES ('z') RETURNING id;

-- partitions
CREATE TABLE event (id integer, name text) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE event_low PARTITION OF event (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10) SERVER aidb;
CREATE TABLE event_heap PARTITION OF event (PRIMARY KEY (id)) FOR VALUES FROM (10) TO (20);
CREATE FOREIGN TABLE event_high (name text, id integer, PRIMARY KEY (id)) SERVER aidb;
ALTER TABLE event ATTACH PARTITION event_high FOR VALUES FROM (20) TO (30);
INSERT INTO event SELECT g, 'e' || g FROM generate_series(0, 28, 4) g;
SELECT tableoid::regclass, * FROM event ORDER BY id;
INSERT INTO event_low VALUES (50, 'out of bounds');
INSERT INTO event VALUES (4, 'duplicate');
UPDATE event SET name = name || '!' WHERE id IN (4, 12, 24) RETURNING tableoid::regclass, *;
UPDATE event SET id = 9 WHERE id = 12 RETURNING tableoid::regclass, *;
UPDATE event SET id = 11 WHERE id = 8;
UPDATE event_low SET id = 11 WHERE id = 8;
DELETE FROM event WHERE id IN (0, 16, 20) RETURNING tableoid::regclass, *;
COPY event FROM stdin;
1	copied
21	copied
\.
SELECT tableoid::regclass, * FROM event ORDER BY id DESC;
TRUNCATE event;
SELECT count(*) FROM event;
DROP TABLE event;
DROP FOREIGN TABLE item, numbered;
DROP FUNCTION show_row();
