-- What demo/run asks both tables. Blocks are separated by empty lines; comments are what is printed above the query, :t
-- is the table, unihan (code int, property text, value text, PRIMARY KEY (code, property)).

-- One row by its key: how the character for "middle" is read.
SELECT value FROM :t WHERE code = ascii('中') AND property = 'kMandarin';

-- All that is known about one character: the beginning of the key is given.
SELECT count(*) AS properties, min(property) AS first, max(property) AS last FROM :t WHERE code = ascii('龍');

-- A range of the key.
SELECT count(*), count(DISTINCT code) AS characters FROM :t WHERE code BETWEEN x'4E00'::int AND x'4FFF'::int;

-- Several keys at once.
SELECT chr(code), value FROM :t
 WHERE code IN (ascii('山'), ascii('水'), ascii('火')) AND property = 'kDefinition' ORDER BY code;

-- The first rows in the order of the key, without a sort.
SELECT to_hex(code), property, value FROM :t ORDER BY code, property LIMIT 2;

-- The last ones: the table is read backwards.
SELECT to_hex(code), property, value FROM :t ORDER BY code DESC, property DESC LIMIT 2;

-- A join with an ordinary table: how some words are read, character by character.
SELECT string_agg(chr(code), '' ORDER BY position) AS word, string_agg(value, ' ' ORDER BY position) AS reading
  FROM word JOIN :t USING (code) WHERE property = 'kMandarin' GROUP BY id ORDER BY id;

-- Ten thousand look-ups all over the table.
SELECT count(value) FROM sample JOIN :t USING (code) WHERE property = 'kRSUnicode';

-- An aggregate over every row.
SELECT property, count(*) FROM :t GROUP BY property ORDER BY count(*) DESC, property LIMIT 3;

-- A condition that no key helps with: characters of thirty strokes.
SELECT count(*) FROM :t WHERE property = 'kTotalStrokes' AND value = '30';

-- Ten thousand updates all over the table, in one transaction.
UPDATE :t SET value = value || ' (seen)' FROM sample WHERE :t.code = sample.code AND property = 'kRSUnicode';

-- Rows that are there already are left alone.
INSERT INTO :t VALUES (ascii('中'), 'kMandarin', 'wrong'), (ascii('中'), 'kDemo', 'new') ON CONFLICT DO NOTHING;

-- Twenty thousand rows deleted, and a change of mind.
BEGIN;
DELETE FROM :t WHERE code BETWEEN x'4E00'::int AND x'4FFF'::int;
SELECT count(*) AS "rows meanwhile" FROM :t WHERE code < x'5000'::int;
ROLLBACK;
SELECT count(*) AS "rows after all" FROM :t WHERE code < x'5000'::int;
