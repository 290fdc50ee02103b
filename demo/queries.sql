-- A line "-- what it shows", then one statement: demo/run runs each and shows its time.

-- a point: one key, one look-up
SELECT value FROM unihan WHERE codepoint = 'U+4E00' AND property = 'kDefinition';
-- a prefix of the key: everything about one character
SELECT property, value FROM unihan WHERE codepoint = 'U+9F8D' ORDER BY property LIMIT 5;
-- IN: three characters by key
SELECT codepoint, value FROM unihan WHERE codepoint IN ('U+6C34', 'U+706B', 'U+6728') AND property = 'kMandarin';
-- a range of keys
SELECT count(*) FROM unihan WHERE codepoint >= 'U+4E00' AND codepoint < 'U+4F00';
-- the first rows of a range, in order: nothing is sorted
SELECT codepoint, property FROM unihan WHERE codepoint >= 'U+5000' ORDER BY codepoint, property LIMIT 3;
-- the last key of all: read backwards
SELECT codepoint, property FROM unihan ORDER BY codepoint DESC, property DESC LIMIT 1;
-- how the planner sees it
EXPLAIN (COSTS OFF) SELECT * FROM unihan WHERE codepoint = 'U+4E00' AND property LIKE 'kM%' ORDER BY property;
-- a join with a heap table, by key
SELECT f.codepoint, u.value FROM favourite f JOIN unihan u USING (codepoint) WHERE u.property = 'kMandarin' ORDER BY 1;
-- an aggregate over all rows
SELECT property, count(*) FROM unihan GROUP BY property ORDER BY count(*) DESC LIMIT 3;
-- a check against the same rows in a heap table: none is missing, none differs
SELECT count(*) AS differing FROM (SELECT * FROM unihan_heap EXCEPT SELECT * FROM unihan) d;
-- an update
UPDATE unihan SET value = 'one; first' WHERE codepoint = 'U+4E00' AND property = 'kDefinition' RETURNING value;
-- a transaction over both kinds of table, rolled back: neither half is there
BEGIN; DELETE FROM unihan WHERE codepoint = 'U+4E00'; INSERT INTO favourite VALUES ('U+4E00'); ROLLBACK; SELECT (SELECT count(*) FROM unihan WHERE codepoint = 'U+4E00') AS rows, (SELECT count(*) FROM favourite WHERE codepoint = 'U+4E00') AS favourites;
