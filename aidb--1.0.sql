-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION aidb" to load this file. \quit

-- The foreign data wrapper and its one server: CREATE FOREIGN TABLE ... SERVER aidb.

CREATE FUNCTION aidb_fdw_handler() RETURNS fdw_handler
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aidb_fdw_handler';

CREATE FUNCTION aidb_fdw_validator(options text[], catalog oid) RETURNS void
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aidb_fdw_validator';

CREATE FOREIGN DATA WRAPPER aidb_fdw HANDLER aidb_fdw_handler VALIDATOR aidb_fdw_validator;

CREATE SERVER aidb FOREIGN DATA WRAPPER aidb_fdw;

-- Key spaces: named collections of bytea keys and values, made by the first write to them.

CREATE FUNCTION put(keyspace text, key bytea, value bytea) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_put';
COMMENT ON FUNCTION put(text, bytea, bytea) IS 'set the value of a key, whether or not the key exists';

CREATE FUNCTION get(keyspace text, key bytea) RETURNS bytea
LANGUAGE C STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_get';
COMMENT ON FUNCTION get(text, bytea) IS 'the value of a key; null when there is none';

CREATE FUNCTION delete(keyspace text, key bytea) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_delete';
COMMENT ON FUNCTION delete(text, bytea) IS 'remove a key; true when it was there';

CREATE FUNCTION batch_put(keyspace text, keys bytea[], "values" bytea[]) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_batch_put';
COMMENT ON FUNCTION batch_put(text, bytea[], bytea[]) IS 'set the values of many keys; returns how many were given';

CREATE FUNCTION batch_get(keyspace text, keys bytea[]) RETURNS TABLE (key bytea, value bytea)
LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'aipg_sql_batch_get';
COMMENT ON FUNCTION batch_get(text, bytea[]) IS 'one row for each of the keys, in their order; the value is null when there is none';

CREATE FUNCTION scan(keyspace text, lower bytea DEFAULT NULL, upper bytea DEFAULT NULL, max_rows bigint DEFAULT NULL,
					 reverse boolean DEFAULT false)
RETURNS TABLE (key bytea, value bytea)
LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_scan';
COMMENT ON FUNCTION scan(text, bytea, bytea, bigint, boolean)
IS 'keys from lower (inclusive) to upper (exclusive) in order, or backwards; null bounds are open';

-- The store.

CREATE FUNCTION stats() RETURNS TABLE (name text, value bigint)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 40 AS 'MODULE_PATHNAME', 'aipg_sql_stats';
COMMENT ON FUNCTION stats() IS 'counters since the server started, present sizes, and what is held now';

CREATE FUNCTION flush() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_flush';
COMMENT ON FUNCTION flush() IS 'write what is in memory to SSTables, and wait for it';

CREATE FUNCTION health(OUT status text, OUT detail text, OUT writable boolean, OUT sequence bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_health';
COMMENT ON FUNCTION health() IS 'status ok, read_only, failed or unavailable, and why';

REVOKE ALL ON FUNCTION aidb_fdw_handler() FROM PUBLIC;
REVOKE ALL ON FUNCTION aidb_fdw_validator(text[], oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION put(text, bytea, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION get(text, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION delete(text, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION batch_put(text, bytea[], bytea[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION batch_get(text, bytea[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION scan(text, bytea, bytea, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION stats() FROM PUBLIC;
REVOKE ALL ON FUNCTION flush() FROM PUBLIC;
REVOKE ALL ON FUNCTION health() FROM PUBLIC;
