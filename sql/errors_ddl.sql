-- What AiDb tables refuse, and how they say so.

-- ---- keys

CREATE FOREIGN TABLE refused (id integer) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (id numeric PRIMARY KEY) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (id char(4) PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE refused (id integer[] PRIMARY KEY) SERVER aidb;
CREATE FOREIGN TABLE refused (id double precision OPTIONS (key '1')) SERVER aidb;
CREATE DOMAIN number AS integer;
CREATE FOREIGN TABLE refused (id number PRIMARY KEY) SERVER aidb;
DROP DOMAIN number;
CREATE COLLATION loose (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);
CREATE FOREIGN TABLE refused (id text COLLATE loose PRIMARY KEY) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE loose_value (id integer PRIMARY KEY, v text COLLATE loose) SERVER aidb;
DROP FOREIGN TABLE loose_value;
DROP COLLATION loose;
CREATE FOREIGN TABLE refused (a integer, b integer GENERATED ALWAYS AS (a + 1) STORED, PRIMARY KEY (b)) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY, b integer PRIMARY KEY) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY, b integer, PRIMARY KEY (a, b)) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY, b integer OPTIONS (key '2')) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer, PRIMARY KEY (a, a)) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer, PRIMARY KEY (b)) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer, b integer, PRIMARY KEY (a) INCLUDE (b)) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (a integer, PRIMARY KEY (a) DEFERRABLE) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer, PRIMARY KEY (a) WITH (fillfactor = 50)) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer OPTIONS (key '1'), b integer OPTIONS (key '3')) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (a integer OPTIONS (key '1'), b integer OPTIONS (key '1')) SERVER aidb;
CREATE FOREIGN TABLE pg_temp.refused (a integer PRIMARY KEY) SERVER aidb;
\echo :SQLSTATE
SELECT 'refused'::regclass;

-- what core refuses for every foreign table stays refused
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY, b integer UNIQUE) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY, EXCLUDE (a WITH =)) SERVER aidb;
CREATE TABLE referenced (a integer PRIMARY KEY);
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY REFERENCES referenced) SERVER aidb;
DROP TABLE referenced;

-- ---- options

CREATE FOREIGN TABLE refused (a integer OPTIONS (key '0')) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (a integer OPTIONS (key '33')) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer OPTIONS (key 'first')) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer OPTIONS (key '')) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer OPTIONS (keys '1')) SERVER aidb;
\echo :SQLSTATE
CREATE FOREIGN TABLE refused (a integer OPTIONS (key '1'), b integer OPTIONS (missing 'x')) SERVER aidb;
CREATE FOREIGN TABLE refused (a integer PRIMARY KEY) SERVER aidb OPTIONS (compression 'lz4');
ALTER SERVER aidb OPTIONS (ADD host 'localhost');
ALTER FOREIGN DATA WRAPPER aidb_fdw OPTIONS (ADD debug 'on');
CREATE USER MAPPING FOR CURRENT_USER SERVER aidb OPTIONS (password 'secret');

-- ---- ALTER

CREATE FOREIGN TABLE t (id integer PRIMARY KEY, v text) SERVER aidb;
ALTER FOREIGN TABLE t DROP COLUMN id;
\echo :SQLSTATE
ALTER FOREIGN TABLE t ALTER COLUMN id TYPE bigint;
\echo :SQLSTATE
ALTER FOREIGN TABLE t ALTER COLUMN id DROP NOT NULL;
\echo :SQLSTATE
ALTER FOREIGN TABLE t ALTER COLUMN id OPTIONS (DROP key);
\echo :SQLSTATE
ALTER FOREIGN TABLE t ALTER COLUMN id OPTIONS (SET key '2');
ALTER FOREIGN TABLE t ALTER COLUMN v OPTIONS (ADD key '2');
ALTER FOREIGN TABLE t ALTER COLUMN v OPTIONS (ADD missing '00');
ALTER FOREIGN TABLE t ADD COLUMN w integer OPTIONS (key '2');
ALTER FOREIGN TABLE t ADD COLUMN w integer PRIMARY KEY;
ALTER FOREIGN TABLE t ADD PRIMARY KEY (v);
-- while there are rows
INSERT INTO t VALUES (1, 'one');
ALTER FOREIGN TABLE t ALTER COLUMN v TYPE integer USING length(v);
\echo :SQLSTATE
ALTER FOREIGN TABLE t ALTER COLUMN v TYPE varchar(2);
ALTER FOREIGN TABLE t ADD COLUMN w double precision DEFAULT random();
\echo :SQLSTATE
ALTER FOREIGN TABLE t ADD COLUMN w serial;
ALTER FOREIGN TABLE t ADD COLUMN w integer GENERATED ALWAYS AS (id + 1) STORED;
\echo :SQLSTATE
ALTER FOREIGN TABLE t ADD COLUMN w integer NOT NULL;
\echo :SQLSTATE
ALTER FOREIGN TABLE t ADD COLUMN w integer DEFAULT 1 CHECK (w > 1);
\echo :SQLSTATE
ALTER FOREIGN TABLE t ADD COLUMN w integer DEFAULT 1 / 0;
CREATE DOMAIN filled AS integer NOT NULL;
ALTER FOREIGN TABLE t ADD COLUMN w filled;
DROP DOMAIN filled;
SELECT * FROM t;

-- by way of a parent
CREATE TABLE parent (id integer, v text);
ALTER FOREIGN TABLE t INHERIT parent;
ALTER TABLE parent ALTER COLUMN id TYPE bigint;
ALTER TABLE parent ALTER COLUMN v TYPE integer USING 1;
ALTER TABLE parent ADD COLUMN w double precision DEFAULT random();
ALTER TABLE parent ADD COLUMN w integer NOT NULL;
ALTER FOREIGN TABLE t NO INHERIT parent;
CREATE FOREIGN TABLE child (PRIMARY KEY (id)) INHERITS (parent) SERVER aidb;
ALTER TABLE parent DROP COLUMN id;
ALTER TABLE parent ALTER COLUMN id DROP NOT NULL;
DROP FOREIGN TABLE child;
DROP TABLE parent;

-- types that rows are made of
CREATE TYPE pair AS (x integer, y integer);
CREATE DOMAIN pairs AS pair[];
ALTER FOREIGN TABLE t ADD COLUMN p pairs;
ALTER TYPE pair ALTER ATTRIBUTE y TYPE bigint;
\echo :SQLSTATE
ALTER FOREIGN TABLE t DROP COLUMN p;
ALTER TYPE pair ALTER ATTRIBUTE y TYPE bigint;
DROP DOMAIN pairs;
DROP TYPE pair;

-- ---- databases

CREATE DATABASE regress_copy TEMPLATE regression;
\echo :SQLSTATE
CREATE DATABASE regress_other TEMPLATE template0;
DROP DATABASE regress_other;

DROP FOREIGN TABLE t;
