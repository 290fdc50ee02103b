-- Key and row encodings: what is stored reads back as a heap table has it. A comparison that shows no rows found none.

-- ---- key types: order and exact values

CREATE FOREIGN TABLE key_int2 (k smallint PRIMARY KEY) SERVER aidb;
INSERT INTO key_int2 VALUES (0), (-1), (1), (-32768), (32767), (255), (256), (-256);
SELECT k FROM key_int2 ORDER BY k;

CREATE FOREIGN TABLE key_int4 (k integer PRIMARY KEY) SERVER aidb;
INSERT INTO key_int4 VALUES (0), (-1), (1), (-2147483648), (2147483647), (65536), (-65536);
SELECT k FROM key_int4 ORDER BY k;

CREATE FOREIGN TABLE key_int8 (k bigint PRIMARY KEY) SERVER aidb;
INSERT INTO key_int8 VALUES (0), (-1), (1), (-9223372036854775808), (9223372036854775807), (4294967296);
SELECT k FROM key_int8 ORDER BY k;
SELECT k FROM key_int8 WHERE k > 1 ORDER BY k DESC;

CREATE FOREIGN TABLE key_bool (k boolean PRIMARY KEY) SERVER aidb;
INSERT INTO key_bool VALUES (true), (false);
SELECT k FROM key_bool ORDER BY k;

CREATE FOREIGN TABLE key_text (k text COLLATE "C" PRIMARY KEY) SERVER aidb;
INSERT INTO key_text VALUES ('b'), (''), ('a'), ('ab'), ('a '), ('aa'), ('é'), ('Z'), (E'\x01'), (E'a\x01');
SELECT k, length(k) FROM key_text ORDER BY k;
SELECT k FROM key_text WHERE k >= 'a' AND k < 'b' ORDER BY k;
SELECT k FROM key_text WHERE k = 'ab';

CREATE FOREIGN TABLE key_varchar (k varchar(3) PRIMARY KEY) SERVER aidb;
INSERT INTO key_varchar VALUES ('abc'), ('ab');
INSERT INTO key_varchar VALUES ('abcd');
SELECT k FROM key_varchar ORDER BY k COLLATE "C";

CREATE FOREIGN TABLE key_bytea (k bytea PRIMARY KEY) SERVER aidb;
INSERT INTO key_bytea VALUES
	('\x'), ('\x00'), ('\x0000'), ('\x0001'), ('\x00ff'), ('\x01'), ('\x0100'), ('\xff'), ('\xffff'), ('\xff00');
SELECT k FROM key_bytea ORDER BY k;
SELECT k FROM key_bytea WHERE k > '\x00' AND k <= '\x01' ORDER BY k;

CREATE FOREIGN TABLE key_uuid (k uuid PRIMARY KEY) SERVER aidb;
INSERT INTO key_uuid VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff'), ('00000000-0000-0000-0000-000000000000'),
	('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT k FROM key_uuid ORDER BY k;

CREATE FOREIGN TABLE key_date (k date PRIMARY KEY) SERVER aidb;
INSERT INTO key_date VALUES ('2000-01-01'), ('1999-12-31'), ('infinity'), ('-infinity'), ('4713-01-01 BC'), ('2024-02-29');
SELECT k FROM key_date ORDER BY k;

CREATE FOREIGN TABLE key_timestamp (k timestamp PRIMARY KEY) SERVER aidb;
INSERT INTO key_timestamp VALUES ('2000-01-01'), ('1999-12-31 23:59:59.999999'), ('infinity'), ('-infinity');
SELECT k FROM key_timestamp ORDER BY k;

CREATE FOREIGN TABLE key_timestamptz (k timestamptz PRIMARY KEY) SERVER aidb;
INSERT INTO key_timestamptz VALUES ('2000-01-01 00:00+00'), ('2000-01-01 00:00+02'), ('infinity');
SELECT k FROM key_timestamptz ORDER BY k;

-- equal keys are found, whatever the columns before and after them hold
CREATE FOREIGN TABLE key_many (a text COLLATE "C", v integer, b bytea, c integer, d boolean, PRIMARY KEY (b, a, d, c)) SERVER aidb;
CREATE TABLE heap_many (a text COLLATE "C", v integer, b bytea, c integer, d boolean, PRIMARY KEY (b, a, d, c));
INSERT INTO heap_many
	SELECT a, row_number() OVER (), b, c, d
	FROM unnest(ARRAY['', 'x', 'xy', E'x\x01', 'y']) a, unnest(ARRAY['', '\x00', '\x0001', '\x00ff', '\x01']::bytea[]) b,
		 unnest(ARRAY[-1, 0, 1]) c, unnest(ARRAY[true, false]) d;
INSERT INTO key_many SELECT * FROM heap_many;
SELECT count(*) FROM key_many;
SELECT array_agg(v ORDER BY b, a, d, c) = (SELECT array_agg(v ORDER BY b, a, d, c) FROM heap_many) AS same_order FROM key_many;
SELECT * FROM key_many WHERE b = '\x0001' AND a = 'xy' AND d AND c = -1;
TABLE key_many EXCEPT TABLE heap_many;
TABLE heap_many EXCEPT TABLE key_many;
INSERT INTO key_many VALUES ('xy', 0, '\x0001', -1, true);

-- the longest key: 1024 bytes with the prefix of 6 and the end mark of 2; a zero byte takes two
INSERT INTO key_bytea VALUES (decode(repeat('ab', 1016), 'hex'));
INSERT INTO key_bytea VALUES (decode(repeat('ab', 1017), 'hex'));
INSERT INTO key_bytea VALUES (decode(repeat('00', 508), 'hex'));
INSERT INTO key_bytea VALUES (decode(repeat('00', 509), 'hex'));
\echo :SQLSTATE
INSERT INTO key_text VALUES (repeat('x', 2000000));
SELECT length(k), count(*) FROM key_bytea WHERE length(k) > 100 GROUP BY 1 ORDER BY 1;

-- ---- the other columns

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (x integer, y text);
CREATE DOMAIN positive AS integer CHECK (value > 0);

CREATE TABLE heap_types (
	id integer PRIMARY KEY, a "char", b boolean, c smallint, d integer, e bigint, f real, g double precision, h numeric,
	i char(5), j varchar(10), k text, l name, m bytea, n date, o time, p timetz, q timestamp, r timestamptz, s interval,
	t uuid, u point, v box, w inet, x macaddr, y bit(5), z varbit, aa json, ab jsonb, ac integer[], ad text[],
	ae double precision[], af int4range, ag int8multirange, ah mood, ai pair, aj positive, ak tsvector, al money,
	am oid, an xid, ao path, ap pair[], aq int2vector);
CREATE FOREIGN TABLE types (
	id integer PRIMARY KEY, a "char", b boolean, c smallint, d integer, e bigint, f real, g double precision, h numeric,
	i char(5), j varchar(10), k text, l name, m bytea, n date, o time, p timetz, q timestamp, r timestamptz, s interval,
	t uuid, u point, v box, w inet, x macaddr, y bit(5), z varbit, aa json, ab jsonb, ac integer[], ad text[],
	ae double precision[], af int4range, ag int8multirange, ah mood, ai pair, aj positive, ak tsvector, al money,
	am oid, an xid, ao path, ap pair[], aq int2vector) SERVER aidb;
INSERT INTO heap_types VALUES
	(1, 'a', true, -2, 3, -4, 1.5, -2.5, 12345678901234567890.00123, 'ab', 'cd', 'text', 'name', '\xdeadbeef', '2020-02-29',
	 '12:34:56.789', '12:34:56+02', '2020-02-29 12:34:56.789', '2020-02-29 12:34:56+00', '1 year 2 days 03:04:05',
	 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '(1,2)', '((1,2),(3,4))', '10.1.2.3/8', '08:00:2b:01:02:03', B'10101',
	 B'1010101', '{"a": [1, 2]}', '{"b": {"c": null}}', '{1,NULL,3}', '{a,NULL,"c d"}', '{1.5,-2.5}', '[1,10)',
	 '{[1,3),[5,7)}', 'ok', '(7,seven)', 8, 'a fat cat', 12.34, 99, '123', '((0,0),(1,1),(2,0))', '{"(1,a)","(2,b)"}', '1 2 3'),
	(2, 'z', false, 32767, 2147483647, 9223372036854775807, 'NaN', 'Infinity', 'NaN', '', '', '', '', '', 'infinity',
	 '24:00', '00:00+00', '-infinity', 'infinity', '-1 mon', '00000000-0000-0000-0000-000000000000', '(0,0)', '((0,0),(0,0))',
	 '::1', '00:00:00:00:00:00', B'00000', B'', '0', '0', '{}', '{}', '{}', 'empty', '{}', 'sad', '(,)', 1, '', 0, 0, '0',
	 '[(0,0)]', '{}', '');
INSERT INTO heap_types (id) VALUES (3);
-- values of every length around the change from short to long headers, behind columns of odd lengths
INSERT INTO heap_types (id, a, k, m, ae, ao)
	SELECT 1000 + n, 'x', repeat('k', n), decode(repeat('00', n + 1), 'hex'), array_fill(n::double precision, ARRAY[n / 4]),
		   CASE WHEN n % 3 = 0 THEN path '((1,1),(2,2),(3,3))' END
	FROM generate_series(100, 150) n;
-- large ones, compressed or moved out of line in the heap
INSERT INTO heap_types (id, k, ad, ab)
	SELECT 2000 + n, repeat('abc', n * 5000), array_fill(repeat('z', n * 100), ARRAY[50]),
		   jsonb_build_object('k', (SELECT string_agg(md5(i::text || n), '') FROM generate_series(1, n * 100) i))
	FROM generate_series(1, 5) n;
INSERT INTO types SELECT * FROM heap_types;
SELECT count(*) FROM types;
SELECT (SELECT count(*) FROM types tt JOIN heap_types hh ON tt.id = hh.id WHERE tt::text = hh::text) AS same_text,
	   (SELECT count(*) FROM types tt JOIN heap_types hh ON tt.id = hh.id WHERE tt::text <> hh::text) AS other_text;
SELECT * FROM types WHERE id = 1;
SELECT k, m, ae FROM types WHERE id = 3;
SELECT length(k), cardinality(ad), length(ab::text) FROM types WHERE id >= 2000 ORDER BY id;
SELECT id, ai, (ai).y, ac[3], ah > 'sad' AS above FROM types WHERE id < 3 ORDER BY id;
-- a few columns of many, and none
SELECT s, t FROM types WHERE id = 1;
SELECT aq FROM types WHERE id = 1;
SELECT count(*), sum(1) FROM types;

-- values that are expanded in memory
DO $$
DECLARE
	numbers integer[] := ARRAY[1, 2];
	one pair := (5, 'five');
BEGIN
	FOR i IN 3 .. 40 LOOP
		numbers[i] := i;
	END LOOP;
	one.y := repeat('5', 200);
	INSERT INTO types (id, ac, ai) VALUES (4, numbers, one);
END $$;
SELECT ac, length((ai).y) FROM types WHERE id = 4;

-- UPDATE of some columns leaves the others, as long or null as they are
UPDATE types SET k = NULL, c = 7 WHERE id IN (1, 2001);
UPDATE heap_types SET k = NULL, c = 7 WHERE id IN (1, 2001);
SELECT tt.id FROM types tt JOIN heap_types hh ON tt.id = hh.id WHERE tt::text <> hh::text;

-- ---- many columns: more than a byte can count, each null in turn

DO $$
DECLARE
	columns text := (SELECT string_agg(format('c%s %s', n, (ARRAY['integer', 'text', 'boolean', 'bigint'])[n % 4 + 1]), ', ')
					 FROM generate_series(1, 300) n);
	value_list text;
BEGIN
	EXECUTE format('CREATE FOREIGN TABLE wide (id integer PRIMARY KEY, %s) SERVER aidb', columns);
	EXECUTE format('CREATE TABLE heap_wide (id integer PRIMARY KEY, %s)', columns);
	value_list := (SELECT string_agg(format('CASE WHEN %s %% r <> 0 THEN %s END', n,
		CASE n % 4 WHEN 0 THEN format('%s * r', n) WHEN 1 THEN format('''v%s'' || r', n)
				   WHEN 2 THEN format('(%s + r) %% 2 = 0', n) ELSE format('%s * r::bigint', n) END), ', ')
		FROM generate_series(1, 300) n);
	EXECUTE format('INSERT INTO heap_wide SELECT r, %s FROM generate_series(1, 20) r', value_list);
END $$;
INSERT INTO wide SELECT * FROM heap_wide;
SELECT count(*) FROM wide t JOIN heap_wide h ON t.id = h.id WHERE t::text = h::text;
SELECT id, c1, c128, c299, c300 FROM wide WHERE id IN (1, 7, 13) ORDER BY id;

DROP FOREIGN TABLE key_int2, key_int4, key_int8, key_bool, key_text, key_varchar, key_bytea, key_uuid, key_date,
	key_timestamp, key_timestamptz, key_many, types, wide;
DROP TABLE heap_many, heap_types, heap_wide;
DROP TYPE mood;
DROP TYPE pair;
DROP DOMAIN positive;
