-- Key spaces and the functions on the store.

SELECT aidb.put('fruit', 'apple', 'red');
SELECT aidb.put('fruit', 'banana', 'yellow'), aidb.put('fruit', 'cherry', 'dark red');
SELECT convert_from(aidb.get('fruit', 'banana'), 'UTF8');
SELECT aidb.get('fruit', 'durian') IS NULL AS none, aidb.get('vegetables', 'banana') IS NULL AS no_space;
SELECT aidb.put('fruit', 'banana', 'green');
SELECT convert_from(aidb.get('fruit', 'banana'), 'UTF8');
SELECT aidb.delete('fruit', 'apple');
SELECT aidb.delete('fruit', 'apple');
SELECT aidb.delete('vegetables', 'apple');
SELECT aidb.get('fruit', 'apple') IS NULL AS gone;

-- names are apart, keys and values are any bytes
SELECT aidb.put('fruits', 'banana', 'many');
SELECT aidb.put('fruit', '', ''), aidb.put('fruit', '\x00', '\x0000'), aidb.put('fruit', '\xff', decode(repeat('ab', 100000), 'hex'));
SELECT key, length(value) FROM aidb.scan('fruit');
SELECT key, convert_from(value, 'UTF8') FROM aidb.scan('fruits');
SELECT length(aidb.get('fruit', ''));

-- many at once
SELECT aidb.batch_put('fruit', ARRAY['a', 'b', 'c', 'b']::bytea[], ARRAY['1', '2', '3', '4']::bytea[]);
SELECT * FROM aidb.batch_get('fruit', ARRAY['c', 'nothing', 'a', 'b', 'c']::bytea[]);
SELECT * FROM aidb.batch_get('vegetables', ARRAY['a']::bytea[]);
SELECT * FROM aidb.batch_get('fruit', '{}');
SELECT aidb.batch_put('fruit', '{}', '{}');

-- ranges
SELECT aidb.batch_put('range', array_agg(format('%s', n)::bytea), array_agg(format('%s', n * n)::bytea)) FROM generate_series(10, 99) n;
SELECT count(*) FROM aidb.scan('range');
SELECT convert_from(key, 'UTF8') AS key, convert_from(value, 'UTF8') AS value FROM aidb.scan('range', '20', '23');
SELECT convert_from(key, 'UTF8') AS key FROM aidb.scan('range', '97');
SELECT convert_from(key, 'UTF8') AS key FROM aidb.scan('range', NULL, '12');
SELECT convert_from(key, 'UTF8') AS key FROM aidb.scan('range', '5', max_rows => 2);
SELECT convert_from(key, 'UTF8') AS key FROM aidb.scan('range', '20', '30', 3, reverse => true);
SELECT convert_from(key, 'UTF8') AS key FROM aidb.scan('range', reverse => true) LIMIT 2;
SELECT count(*) FROM aidb.scan('range', '30', '20');
SELECT count(*) FROM aidb.scan('range', '2', '3', 0);
SELECT count(*) FROM aidb.scan('range', '2', decode(repeat('33', 5000), 'hex'));
SELECT count(*) FROM aidb.scan('vegetables');

-- transactions
BEGIN;
SELECT aidb.put('ledger', 'a', '1');
SELECT key, value FROM aidb.scan('ledger');
ROLLBACK;
SELECT count(*) FROM aidb.scan('ledger');
BEGIN;
SELECT aidb.put('ledger', 'a', '1');
SAVEPOINT s;
SELECT aidb.put('ledger', 'a', '2'), aidb.put('ledger', 'b', '2');
SELECT aidb.delete('fruit', 'banana');
ROLLBACK TO s;
SELECT key, value FROM aidb.scan('ledger');
COMMIT;
SELECT key, value FROM aidb.scan('ledger');
SELECT convert_from(aidb.get('fruit', 'banana'), 'UTF8');

-- errors
SELECT aidb.put(NULL, 'k', 'v');
\echo :SQLSTATE
SELECT aidb.put('fruit', NULL, 'v');
SELECT aidb.put('fruit', 'k', NULL);
SELECT aidb.delete('fruit', NULL);
SELECT aidb.scan(NULL);
SELECT aidb.put('', 'k', 'v');
\echo :SQLSTATE
SELECT aidb.put(repeat('n', 64), 'k', 'v');
SELECT aidb.batch_put('fruit', ARRAY['a']::bytea[], ARRAY['1', '2']::bytea[]);
\echo :SQLSTATE
SELECT aidb.batch_put('fruit', ARRAY['a', NULL]::bytea[], ARRAY['1', '2']::bytea[]);
SELECT aidb.batch_get('fruit', ARRAY[NULL]::bytea[]);
SELECT aidb.scan('fruit', max_rows => -1);
\echo :SQLSTATE
SELECT aidb.put('fruit', decode(repeat('ab', 1019), 'hex'), 'v');
\echo :SQLSTATE
SELECT aidb.put('fruit', decode(repeat('ab', 1018), 'hex'), 'v');
SELECT aidb.get('fruit', NULL) IS NULL AS null_key;
BEGIN READ ONLY;
SELECT convert_from(aidb.get('fruit', 'banana'), 'UTF8');
SELECT aidb.put('fruit', 'k', 'v');
\echo :SQLSTATE
ROLLBACK;

-- the store
SELECT aidb.flush();
SELECT status, detail, writable, sequence >= 0 AS sequence FROM aidb.health();
SELECT count(*) AS numbers, count(DISTINCT name) AS names, bool_and(value >= 0) AS sane FROM aidb.stats();
SELECT name FROM aidb.stats() WHERE name IN ('commits', 'entries', 'level0_files', 'level6_bytes', 'writes_off') ORDER BY name;
SELECT key, length(value) FROM aidb.scan('fruit', upper => 'b');

-- nobody else may use them
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'aidb' AND has_function_privilege('public', p.oid, 'EXECUTE');
CREATE ROLE regress_aidb_user;
CREATE SCHEMA AUTHORIZATION regress_aidb_user;
SET ROLE regress_aidb_user;
SELECT aidb.get('fruit', 'banana');
CREATE FOREIGN TABLE mine (id integer PRIMARY KEY) SERVER aidb;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER aidb TO regress_aidb_user;
SET ROLE regress_aidb_user;
CREATE FOREIGN TABLE mine (id integer PRIMARY KEY) SERVER aidb;
INSERT INTO mine VALUES (1);
SELECT * FROM mine;
RESET ROLE;
GRANT USAGE ON SCHEMA aidb TO regress_aidb_user;
GRANT EXECUTE ON FUNCTION aidb.get(text, bytea) TO regress_aidb_user;
SET ROLE regress_aidb_user;
SELECT convert_from(aidb.get('fruit', 'banana'), 'UTF8');
SELECT aidb.put('fruit', 'banana', 'stolen');
RESET ROLE;
DROP OWNED BY regress_aidb_user;
DROP ROLE regress_aidb_user;

-- the extension takes its key spaces with it
CREATE DATABASE regress_functions TEMPLATE template0;
\c regress_functions
CREATE EXTENSION aidb;
SELECT aidb.put('fruit', 'apple', 'red');
BEGIN;
DROP EXTENSION aidb;
ROLLBACK;
SELECT key, value FROM aidb.scan('fruit');
DROP EXTENSION aidb;
CREATE EXTENSION aidb;
SELECT key, value FROM aidb.scan('fruit');
SELECT aidb.put('fruit', 'apple', 'green');
SELECT key, value FROM aidb.scan('fruit');
\c regression
DROP DATABASE regress_functions;
