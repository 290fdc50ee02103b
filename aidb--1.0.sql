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

-- Replication: what a server is in its group. All of it takes effect at once and is not undone by a rollback.

CREATE FUNCTION become_primary(epoch bigint DEFAULT 1) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_become_primary';
COMMENT ON FUNCTION become_primary(bigint) IS 'let replicas follow this server';

CREATE FUNCTION follow(conninfo text, slot text, role text DEFAULT 'standby', discard boolean DEFAULT false) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_follow';
COMMENT ON FUNCTION follow(text, text, text, boolean)
IS 'make this server a replica of another one: its AiDb tables are copied into the current database and kept up to date';

CREATE FUNCTION seal(epoch bigint) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_seal';
COMMENT ON FUNCTION seal(bigint)
IS 'follow and acknowledge nobody of a lower epoch from now on; returns the last commit that this server has';

CREATE FUNCTION promote(epoch bigint) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_promote';
COMMENT ON FUNCTION promote(bigint) IS 'make a standby that was sealed with this epoch the primary of its group';

CREATE FUNCTION set_in_sync(epoch bigint, slots text[], version bigint DEFAULT 0) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_set_in_sync';
COMMENT ON FUNCTION set_in_sync(bigint, text[], bigint)
IS 'the replica that must have a commit before it is acknowledged and visible; returns when it has all before';

CREATE FUNCTION renew_lease(epoch bigint, lease_ms integer) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_renew_lease';
COMMENT ON FUNCTION renew_lease(bigint, integer)
IS 'allow reads on this primary for so long, where commits wait for a replica; without a first call they are always allowed';

CREATE FUNCTION node_status(OUT role text, OUT epoch bigint, OUT sealed boolean, OUT state text, OUT sequence bigint,
							OUT applied bigint, OUT lag_commits bigint, OUT heard_ms bigint, OUT rows_copied bigint,
							OUT in_sync text, OUT writable boolean) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_node_status';
COMMENT ON FUNCTION node_status() IS 'what this server is in its group, and how far';

-- What replicas call.

CREATE FUNCTION stream_open(slot text) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_stream_open';
COMMENT ON FUNCTION stream_open(text) IS 'keep the log from now on, or from where the slot stands';

CREATE FUNCTION stream_read(slot text, epoch bigint, after bigint, acknowledged bigint, undecided bigint[],
							max_bytes integer DEFAULT 1048576, wait_ms integer DEFAULT 0) RETURNS bytea
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_stream_read';
COMMENT ON FUNCTION stream_read(text, bigint, bigint, bigint, bigint[], integer, integer)
IS 'what was committed after a commit; waits until there is something';

CREATE FUNCTION stream_drop(slot text) RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_stream_drop';
COMMENT ON FUNCTION stream_drop(text) IS 'do not keep the log for this slot any more; false when there was none';

CREATE FUNCTION stream_slots() RETURNS TABLE (slot text, acknowledged bigint, retained_bytes bigint, lost boolean)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 4 AS 'MODULE_PATHNAME', 'aipg_sql_stream_slots';
COMMENT ON FUNCTION stream_slots() IS 'for whom the log is kept';

CREATE FUNCTION clone_read(after bytea, max_bytes integer, OUT operations bytea, OUT "rows" bigint, OUT last bytea,
						   OUT sequence bigint, OUT store bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_clone_read';
COMMENT ON FUNCTION clone_read(bytea, integer) IS 'rows of all AiDb tables of this database, for a new replica';

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
REVOKE ALL ON FUNCTION become_primary(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION follow(text, text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION seal(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION promote(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION set_in_sync(bigint, text[], bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION renew_lease(bigint, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION node_status() FROM PUBLIC;
REVOKE ALL ON FUNCTION stream_open(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION stream_read(text, bigint, bigint, bigint, bigint[], integer, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION stream_drop(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION stream_slots() FROM PUBLIC;
REVOKE ALL ON FUNCTION clone_read(bytea, integer) FROM PUBLIC;
