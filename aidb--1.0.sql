-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION aidb" to load this file. \quit

-- The foreign data wrapper and its one server: CREATE FOREIGN TABLE ... SERVER aidb.

CREATE FUNCTION aidb_fdw_handler() RETURNS fdw_handler
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aidb_fdw_handler';

CREATE FUNCTION aidb_fdw_validator(options text[], catalog oid) RETURNS void
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aidb_fdw_validator';

CREATE FOREIGN DATA WRAPPER aidb_fdw HANDLER aidb_fdw_handler VALIDATOR aidb_fdw_validator;

CREATE SERVER aidb FOREIGN DATA WRAPPER aidb_fdw;

-- Tables of a cluster, on the server that is its coordinator: CREATE FOREIGN TABLE ... SERVER aidb_cluster.

CREATE FUNCTION router_fdw_handler() RETURNS fdw_handler
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_fdw_handler';

CREATE FUNCTION router_fdw_validator(options text[], catalog oid) RETURNS void
LANGUAGE C STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_fdw_validator';

CREATE FOREIGN DATA WRAPPER aidb_cluster_fdw HANDLER router_fdw_handler VALIDATOR router_fdw_validator;

CREATE SERVER aidb_cluster FOREIGN DATA WRAPPER aidb_cluster_fdw;

-- What nodes answer when an aggregate is asked for of which they have a part: the state before its last step.

CREATE AGGREGATE partial_int2(int2) (sfunc = int2_avg_accum, stype = int8[], initcond = '{0,0}');
CREATE AGGREGATE partial_int4(int4) (sfunc = int4_avg_accum, stype = int8[], initcond = '{0,0}');
CREATE AGGREGATE partial_int8(int8) (sfunc = int8_avg_accum, stype = internal, finalfunc = int8_avg_serialize);
CREATE AGGREGATE partial_numeric(numeric) (sfunc = numeric_avg_accum, stype = internal, finalfunc = numeric_avg_serialize);
CREATE AGGREGATE partial_float4(float4) (sfunc = float4_accum, stype = float8[], initcond = '{0,0,0}');
CREATE AGGREGATE partial_float8(float8) (sfunc = float8_accum, stype = float8[], initcond = '{0,0,0}');
CREATE AGGREGATE partial_interval(interval) (sfunc = interval_accum, stype = interval[], initcond = '{0 second,0 second}');

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

CREATE FUNCTION durations() RETURNS TABLE (operation text, seconds float8, count bigint, total_seconds float8)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 96 AS 'MODULE_PATHNAME', 'aipg_sql_durations';
COMMENT ON FUNCTION durations() IS 'how often commits, flushes and so on took less than so many seconds, and all of them together';

CREATE VIEW stat_commit AS
SELECT (s.n->>'commits')::bigint AS commits, (s.n->>'sequence')::bigint AS sequence, (s.n->>'oldest_snapshot')::bigint AS oldest_snapshot,
	(s.n->>'snapshots')::bigint AS snapshots, (s.n->>'readers')::bigint AS readers, (s.n->>'row_locks')::bigint AS row_locks,
	(s.n->>'reservations')::bigint AS undecided, (s.n->>'gets')::bigint AS gets, (s.n->>'seeks')::bigint AS seeks,
	(s.n->>'entries')::bigint AS versions, (s.n->>'stalls')::bigint AS stalls, (s.n->>'stall_us')::bigint / 1e6::float8 AS stall_seconds,
	(s.n->>'writes_off') <> '0' AS writes_off
FROM (SELECT jsonb_object_agg(name, value) AS n FROM aidb.stats()) s;
COMMENT ON VIEW stat_commit IS 'commits, reads, and what is held now';

CREATE VIEW stat_log AS
SELECT (s.n->>'log_writes')::bigint AS writes, (s.n->>'log_syncs')::bigint AS syncs, (s.n->>'log_bytes')::bigint AS written_bytes,
	(s.n->>'log_live_bytes')::bigint AS live_bytes, (s.n->>'reserved_bytes')::bigint AS reserved_bytes
FROM (SELECT jsonb_object_agg(name, value) AS n FROM aidb.stats()) s;
COMMENT ON VIEW stat_log IS 'the write-ahead log; live: what recovery would read';

CREATE VIEW stat_level AS
SELECT l AS level, max(value) FILTER (WHERE name = format('level%s_files', l)) AS files,
	max(value) FILTER (WHERE name = format('level%s_bytes', l)) AS bytes
FROM aidb.stats(), generate_series(0, 6) l GROUP BY l ORDER BY l;
COMMENT ON VIEW stat_level IS 'SSTables by level';

CREATE VIEW stat_compaction AS
SELECT (s.n->>'flushes')::bigint AS flushes, (s.n->>'flush_bytes')::bigint AS flushed_bytes, (s.n->>'compactions')::bigint AS merges,
	(s.n->>'moves')::bigint AS moves, (s.n->>'compaction_read_bytes')::bigint AS read_bytes,
	(s.n->>'compaction_write_bytes')::bigint AS written_bytes,
	round(1 + (s.n->>'compaction_write_bytes')::numeric / nullif((s.n->>'flush_bytes')::numeric, 0), 2) AS write_amplification
FROM (SELECT jsonb_object_agg(name, value) AS n FROM aidb.stats()) s;
COMMENT ON VIEW stat_compaction IS 'flushes and compactions; amplification: bytes written to tables for each byte that was flushed';

CREATE VIEW stat_cache AS
SELECT (s.n->>'memory_bytes')::bigint AS memory_bytes, (s.n->>'memtable_bytes')::bigint AS memtable_bytes,
	(s.n->>'cache_bytes')::bigint AS block_bytes, (s.n->>'cache_hits')::bigint AS block_hits, (s.n->>'cache_misses')::bigint AS block_misses,
	(s.n->>'filter_checks')::bigint AS filter_checks, (s.n->>'filter_skips')::bigint AS filter_skips,
	(s.n->>'row_cache_bytes')::bigint AS row_bytes, (s.n->>'row_cache_hits')::bigint AS row_hits,
	(s.n->>'row_cache_misses')::bigint AS row_misses, (s.n->>'row_cache_invalidations')::bigint AS row_invalidations
FROM (SELECT jsonb_object_agg(name, value) AS n FROM aidb.stats()) s;
COMMENT ON VIEW stat_cache IS 'memory: blocks, bloom filters, and on a caching read node rows';

CREATE VIEW stat_duration AS
SELECT d.operation, max(d.count) AS count, round((max(d.total_seconds) / nullif(max(d.count), 0) * 1000)::numeric, 3) AS mean_ms,
	min(d.seconds) FILTER (WHERE d.count >= 0.5 * d.everything) * 1000 AS half_below_ms,
	min(d.seconds) FILTER (WHERE d.count >= 0.99 * d.everything) * 1000 AS p99_below_ms,
	min(d.seconds) FILTER (WHERE d.count = d.everything) * 1000 AS all_below_ms
FROM (SELECT *, max(count) OVER (PARTITION BY operation) AS everything FROM aidb.durations()) d GROUP BY d.operation ORDER BY d.operation;
COMMENT ON VIEW stat_duration IS 'how long commits, flushes and so on take, to a power of two';

CREATE FUNCTION flush() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_flush';
COMMENT ON FUNCTION flush() IS 'write what is in memory to SSTables, and wait for it';

CREATE FUNCTION health(OUT status text, OUT detail text, OUT writable boolean, OUT sequence bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_health';
COMMENT ON FUNCTION health() IS 'status ok, read_only, failed or unavailable, and why';

CREATE FUNCTION give_index_id(index_id bigint) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_give_index_id';
COMMENT ON FUNCTION give_index_id(bigint)
IS 'for routers: the next table that this transaction creates or truncates is stored under this number, as in all groups of a cluster';

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
							OUT in_sync text, OUT writable boolean, OUT upstream text) RETURNS record
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

CREATE VIEW stat_replication AS SELECT slot, acknowledged, retained_bytes, lost FROM aidb.stream_slots();
COMMENT ON VIEW stat_replication IS 'replicas and archives of this server, and the log that is kept for them';

CREATE FUNCTION clone_read(after bytea, max_bytes integer, OUT operations bytea, OUT "rows" bigint, OUT last bytea,
						   OUT sequence bigint, OUT store bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_clone_read';
COMMENT ON FUNCTION clone_read(bytea, integer) IS 'rows of all AiDb tables of this database, for a new replica';

-- Slots of sharded tables that are moved from one group of a cluster to another.

CREATE FUNCTION closed_slots() RETURNS integer[]
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_closed_slots';
COMMENT ON FUNCTION closed_slots() IS 'the slots of sharded tables that other groups keep';

CREATE FUNCTION close_slots(slots integer[]) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_close_slots';
COMMENT ON FUNCTION close_slots(integer[]) IS 'refuse access to these slots: another group keeps them';

CREATE FUNCTION open_slots(slots integer[]) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_open_slots';
COMMENT ON FUNCTION open_slots(integer[]) IS 'these slots are kept here';

CREATE FUNCTION keep_slots(slots integer[]) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_keep_slots';
COMMENT ON FUNCTION keep_slots(integer[]) IS 'these slots are kept here, and no others';

CREATE FUNCTION slots_mark(slots integer[]) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_mark';
COMMENT ON FUNCTION slots_mark(integer[]) IS 'transactions that write to these slots can be waited for from then on; waits for those that run';

CREATE FUNCTION slots_hold() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_hold';
COMMENT ON FUNCTION slots_hold() IS 'let nobody write to the marked slots until aidb.slots_release(); returns the last commit';

CREATE FUNCTION slots_release() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_release';
COMMENT ON FUNCTION slots_release() IS 'undo aidb.slots_hold() and aidb.slots_mark()';

CREATE FUNCTION slots_read(slots integer[], after bytea, max_bytes integer, OUT operations bytea, OUT "rows" bigint, OUT last bytea)
RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_read';
COMMENT ON FUNCTION slots_read(integer[], bytea, integer) IS 'rows of these slots, for the group that is to have them';

CREATE FUNCTION slots_write(operations bytea) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_write';
COMMENT ON FUNCTION slots_write(bytea) IS 'write rows of closed slots';

CREATE FUNCTION slots_sync() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_sync';
COMMENT ON FUNCTION slots_sync() IS 'what aidb.slots_write() has written is durable';

CREATE FUNCTION slots_digest(slots integer[], OUT "rows" bigint, OUT digest bigint, OUT sequence bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_digest';
COMMENT ON FUNCTION slots_digest(integer[]) IS 'a hash of all rows of these slots: the same where they are the same';

CREATE FUNCTION slots_size(slots integer[], OUT "rows" bigint, OUT bytes bigint, OUT free_bytes bigint) RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_size';
COMMENT ON FUNCTION slots_size(integer[])
IS 'about how many rows these slots have, and bytes in the store; how many bytes are free where the store is';

CREATE FUNCTION table_index_id(name text) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_table_index_id';
COMMENT ON FUNCTION table_index_id(text) IS 'for routers: under which number the table is stored';

CREATE FUNCTION slots_purge(slots integer[], max_rows integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_slots_purge';
COMMENT ON FUNCTION slots_purge(integer[], integer) IS 'remove rows of closed slots; returns how many there were, up to the limit';

CREATE FUNCTION backup_start(OUT after bigint, OUT complete_at bigint, OUT store bigint, OUT epoch bigint, OUT at timestamptz)
RETURNS record
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_backup_start';
COMMENT ON FUNCTION backup_start() IS 'make a checkpoint of the AiDb store, for a backup by this session';

CREATE FUNCTION backup_files() RETURNS TABLE (name text, bytes bigint, modified bigint)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_backup_files';
COMMENT ON FUNCTION backup_files() IS 'the files of the checkpoint';

CREATE FUNCTION backup_read(name text, "offset" bigint, bytes integer) RETURNS bytea
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_backup_read';
COMMENT ON FUNCTION backup_read(text, bigint, integer) IS 'a part of a file of the checkpoint';

CREATE FUNCTION backup_stop() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_backup_stop';
COMMENT ON FUNCTION backup_stop() IS 'remove the checkpoint';

CREATE FUNCTION store_id() RETURNS bigint
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'aipg_sql_store_id';
COMMENT ON FUNCTION store_id() IS 'tells this server''s AiDb store from all others';

CREATE TABLE backup (
	label text PRIMARY KEY,
	repository text NOT NULL,
	started timestamptz NOT NULL,
	finished timestamptz NOT NULL,
	files integer NOT NULL,
	bytes bigint NOT NULL,
	stored_bytes bigint NOT NULL
);
COMMENT ON TABLE backup IS 'the backups that have been taken of this server';

CREATE FUNCTION restore_point(name text) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_restore_point';
COMMENT ON FUNCTION restore_point(text) IS 'a name for the present state, to which aidb-admin restore can go back';

CREATE FUNCTION restore_begin(store bigint, after bigint, complete_at bigint) RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_restore_begin';
COMMENT ON FUNCTION restore_begin(bigint, bigint, bigint) IS 'for aidb-admin restore: make the tables of a store from a backup';

CREATE FUNCTION restore_apply(response bytea) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_restore_apply';
COMMENT ON FUNCTION restore_apply(bytea) IS 'for aidb-admin restore: apply what was committed since';

CREATE FUNCTION restore_finish() RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_restore_finish';
COMMENT ON FUNCTION restore_finish() IS 'for aidb-admin restore: the server may be used';

CREATE FUNCTION rows_get(epoch bigint, keys bytea) RETURNS bytea
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_rows_get';
COMMENT ON FUNCTION rows_get(bigint, bytea) IS 'stored rows by their keys, for a caching read node';

CREATE FUNCTION rows_scan(epoch bigint, lower bytea, upper bytea, backwards boolean, max_bytes integer) RETURNS bytea
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_rows_scan';
COMMENT ON FUNCTION rows_scan(bigint, bytea, bytea, boolean, integer) IS 'stored rows of a range of keys, for a caching read node';

CREATE FUNCTION token() RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'aipg_sql_token';
COMMENT ON FUNCTION token() IS 'for aidb.read_token on a replica: what was committed here before is to be seen there';

-- The catalog of a cluster, in the database that its coordinator uses; empty elsewhere. Clients and coordinators get, compare and
-- set, watch (LISTEN aidb_cluster) and lease.

CREATE TABLE node (
	node_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_-]{0,20}$'),
	conninfo text NOT NULL,
	added_at timestamptz NOT NULL DEFAULT now(),
	state text NOT NULL DEFAULT 'unknown',
	detail text NOT NULL DEFAULT ''
);

CREATE TABLE node_group (
	group_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE,
	version bigint NOT NULL DEFAULT 1,
	epoch bigint NOT NULL DEFAULT 1,
	primary_id integer NOT NULL UNIQUE REFERENCES node,
	in_sync_id integer REFERENCES node,
	synchronous boolean NOT NULL,
	wanted_id integer REFERENCES node,
	allow_data_loss boolean NOT NULL DEFAULT false,
	weight float8 NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 / 64.0 AND 64),
	drained boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN node_group.drained IS 'it is to keep no slots';

CREATE TABLE slot (
	slot integer PRIMARY KEY,
	group_id integer NOT NULL REFERENCES node_group
);

CREATE TABLE slot_move (
	slot integer PRIMARY KEY REFERENCES slot,
	source_id integer NOT NULL REFERENCES node_group,
	target_id integer NOT NULL REFERENCES node_group,
	step text NOT NULL DEFAULT 'begin',
	moved boolean NOT NULL DEFAULT false,
	started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE slot_move IS 'slots that are on their way; moved: the new group has them, and the old one''s copy is still to be removed';

CREATE TABLE slot_history (
	finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	source text NOT NULL,
	target text NOT NULL,
	slots integer NOT NULL,
	"rows" bigint NOT NULL,
	bytes bigint NOT NULL,
	seconds float8 NOT NULL,
	hold_ms float8 NOT NULL
);
COMMENT ON TABLE slot_history IS 'moves of slots that are over; hold: for how long nobody could write to them';

CREATE TABLE autoscale (
	group_id integer PRIMARY KEY REFERENCES node_group ON DELETE CASCADE,
	min_caches integer NOT NULL CHECK (min_caches BETWEEN 0 AND 7),
	max_caches integer NOT NULL CHECK (max_caches BETWEEN min_caches AND 7),
	target_reads float8 NOT NULL CHECK (target_reads > 0),
	target_latency_ms float8 NOT NULL CHECK (target_latency_ms >= 0),
	max_lag_ms float8 NOT NULL CHECK (max_lag_ms >= 0),
	min_hit_rate float8 NOT NULL CHECK (min_hit_rate BETWEEN 0 AND 1),
	up_after_s float8 NOT NULL CHECK (up_after_s >= 0),
	down_after_s float8 NOT NULL CHECK (down_after_s >= 0),
	pause_s float8 NOT NULL CHECK (pause_s >= 0),
	dry_run boolean NOT NULL,
	looked_at timestamptz,
	finding text,
	reads float8,
	latency_ms float8,
	lag_ms float8,
	hit_rate float8
);
COMMENT ON TABLE autoscale IS 'groups whose number of caching read nodes goes by their load, and what was found last';

CREATE TABLE scaling (
	scaling_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	group_name text NOT NULL,
	action text NOT NULL,
	dry_run boolean NOT NULL,
	caches integer NOT NULL,
	reason text NOT NULL
);
COMMENT ON TABLE scaling IS 'what was done, or would have been, to the number of caching read nodes, and why';

CREATE SEQUENCE index_id MINVALUE 2147483648 MAXVALUE 4294967295;

CREATE TABLE member (
	node_id integer PRIMARY KEY REFERENCES node,
	group_id integer NOT NULL REFERENCES node_group ON DELETE CASCADE,
	role text NOT NULL DEFAULT 'standby' CHECK (role IN ('standby', 'cache'))
);

CREATE TABLE event (
	event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	severity text NOT NULL CHECK (severity IN ('info', 'warning', 'alert')),
	group_name text,
	node_name text,
	message text NOT NULL
);

CREATE TABLE coordinator (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	holder text NOT NULL,
	until timestamptz NOT NULL
);

SELECT pg_catalog.pg_extension_config_dump('aidb.node', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.node_group', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.member', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.slot', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.index_id', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.event', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.slot_move', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.autoscale', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.scaling', '');
SELECT pg_catalog.pg_extension_config_dump('aidb.slot_history', '');

CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_notify('aidb_cluster', TG_TABLE_NAME);
	RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON node_group
FOR EACH STATEMENT EXECUTE FUNCTION announce();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON member
FOR EACH STATEMENT EXECUTE FUNCTION announce();

CREATE FUNCTION map_changed() RETURNS trigger LANGUAGE C AS 'MODULE_PATHNAME', 'router_sql_map_changed';

CREATE TRIGGER map_changed AFTER INSERT OR UPDATE OR DELETE ON node_group
FOR EACH STATEMENT EXECUTE FUNCTION map_changed();
CREATE TRIGGER map_changed AFTER UPDATE OF conninfo, name, state ON node FOR EACH STATEMENT EXECUTE FUNCTION map_changed();
CREATE TRIGGER map_changed AFTER INSERT OR UPDATE OR DELETE ON member FOR EACH STATEMENT EXECUTE FUNCTION map_changed();
CREATE TRIGGER map_changed AFTER INSERT OR UPDATE OR DELETE ON slot FOR EACH STATEMENT EXECUTE FUNCTION map_changed();

CREATE FUNCTION announce_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_notify('aidb_events', NEW.severity || ': ' || left(NEW.message, 7000));
	RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION announce_event();

CREATE FUNCTION node_of(name text) RETURNS integer LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
	found_id integer;
BEGIN
	SELECT node_id INTO found_id FROM aidb.node WHERE node.name = node_of.name;
	IF found_id IS NULL THEN
		RAISE undefined_object USING MESSAGE = format('there is no node "%s"', name), HINT = 'See aidb.nodes, and aidb.add_node().';
	END IF;
	RETURN found_id;
END $$;

CREATE FUNCTION group_of(name text) RETURNS integer LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
	found_id integer;
BEGIN
	SELECT group_id INTO found_id FROM aidb.node_group WHERE node_group.name = group_of.name;
	IF found_id IS NULL THEN
		RAISE undefined_object USING MESSAGE = format('there is no group "%s"', name), HINT = 'See aidb.groups, and aidb.add_group().';
	END IF;
	RETURN found_id;
END $$;

CREATE FUNCTION add_node(name text, conninfo text) RETURNS integer LANGUAGE sql STRICT AS $$
	INSERT INTO aidb.node (name, conninfo) VALUES (name, conninfo) RETURNING node_id
$$;
COMMENT ON FUNCTION add_node(text, text) IS 'make a server known to the cluster';

CREATE FUNCTION remove_node(name text) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	id integer := aidb.node_of(name);
BEGIN
	IF EXISTS (SELECT FROM aidb.member WHERE node_id = id) THEN
		RAISE object_in_use USING MESSAGE = format('node "%s" is in a group', name), HINT = 'Call aidb.remove_replica() first.';
	END IF;
	DELETE FROM aidb.node WHERE node_id = id;
END $$;
COMMENT ON FUNCTION remove_node(text) IS 'forget a server that is in no group';

CREATE FUNCTION slot_placement(groups integer[], weights float8[]) RETURNS TABLE (slot integer, group_id integer)
LANGUAGE C STRICT ROWS 256 AS 'MODULE_PATHNAME', 'router_sql_slot_placement';
COMMENT ON FUNCTION slot_placement(integer[], float8[]) IS 'which of the groups is to keep each slot';

CREATE FUNCTION has_tables() RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM pg_catalog.pg_foreign_table t JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
		WHERE s.srvname = 'aidb_cluster')
$$;
COMMENT ON FUNCTION has_tables() IS 'whether the cluster has tables';

CREATE FUNCTION prepare_primary(group_id integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_sql_prepare_primary';
COMMENT ON FUNCTION prepare_primary(integer) IS 'for aidb.add_group(): make the node of a new group its primary; returns the epoch';

CREATE FUNCTION make_tables(group_id integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_sql_make_tables';
COMMENT ON FUNCTION make_tables(integer) IS 'for aidb.add_group(): make the tables of the cluster in a new group; returns how many';

CREATE FUNCTION drop_tables(group_id integer) RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_sql_drop_tables';
COMMENT ON FUNCTION drop_tables(integer) IS 'for aidb.remove_group(): drop the tables of the cluster in a group; returns how many';

CREATE FUNCTION wanted_slots(without text DEFAULT NULL) RETURNS TABLE (slot integer, group_id integer) LANGUAGE sql STABLE AS $$
	SELECT p.slot, p.group_id FROM (SELECT array_agg(g.group_id ORDER BY g.group_id) AS groups,
		array_agg(g.weight ORDER BY g.group_id) AS weights FROM aidb.node_group g
		WHERE NOT g.drained AND g.name IS DISTINCT FROM wanted_slots.without) a, aidb.slot_placement(a.groups, a.weights) p
$$;
COMMENT ON FUNCTION wanted_slots(text) IS 'which group is to keep each slot, by the weights of the groups, as if one of them were drained';

CREATE FUNCTION planned_moves(without text DEFAULT NULL) RETURNS TABLE (slot integer, source_id integer, target_id integer)
LANGUAGE sql STABLE AS $$
	SELECT s.slot, s.group_id, w.group_id FROM aidb.slot s JOIN aidb.wanted_slots(without) w USING (slot)
	WHERE s.group_id <> w.group_id ORDER BY s.group_id, w.group_id, s.slot
$$;
COMMENT ON FUNCTION planned_moves(text) IS 'which slots are not where they are wanted: what aidb-admin rebalance moves';

CREATE FUNCTION add_group(name text, "primary" text, synchronous boolean DEFAULT true, weight float8 DEFAULT 1) RETURNS integer
LANGUAGE plpgsql STRICT AS $$
DECLARE
	node integer := aidb.node_of("primary");
	made integer;
BEGIN
	PERFORM aidb.hold_definitions();
	LOCK TABLE aidb.slot IN SHARE ROW EXCLUSIVE MODE;
	IF EXISTS (SELECT FROM aidb.member WHERE node_id = node) THEN
		RAISE object_in_use USING MESSAGE = format('node "%s" is in a group already', "primary"), HINT = 'Add another node with aidb.add_node().';
	END IF;
	INSERT INTO aidb.node_group (name, primary_id, synchronous, weight)
	VALUES (name, node, synchronous, weight) RETURNING group_id INTO made;
	INSERT INTO aidb.member VALUES (node, made);
	IF aidb.has_tables() THEN
		UPDATE aidb.node_group SET epoch = aidb.prepare_primary(made) WHERE group_id = made;
		PERFORM aidb.make_tables(made);
	ELSE
		DELETE FROM aidb.slot;
		INSERT INTO aidb.slot SELECT * FROM aidb.wanted_slots();
	END IF;
	RETURN made;
END $$;
COMMENT ON FUNCTION add_group(text, text, boolean, float8)
IS 'make a group of one node, on which aidb.become_primary() has been called; synchronous: its commits wait for a standby';

CREATE FUNCTION drain_group(name text, drained boolean DEFAULT true) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	of integer := aidb.group_of(name);
BEGIN
	IF drained AND NOT EXISTS (SELECT FROM aidb.node_group g WHERE g.group_id <> of AND NOT g.drained) THEN
		RAISE object_not_in_prerequisite_state USING MESSAGE = format('group "%s" is the last that may keep slots', name),
			HINT = 'Add another group first.';
	END IF;
	UPDATE aidb.node_group g SET drained = drain_group.drained WHERE g.group_id = of;
	IF NOT aidb.has_tables() THEN
		UPDATE aidb.slot s SET group_id = w.group_id FROM aidb.wanted_slots() w WHERE s.slot = w.slot AND s.group_id <> w.group_id;
	END IF;
END $$;
COMMENT ON FUNCTION drain_group(text, boolean) IS 'let a group keep no slots: aidb-admin rebalance moves those that it has';

CREATE FUNCTION remove_group(name text) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	of integer := aidb.group_of(name);
	kept bigint;
BEGIN
	PERFORM aidb.hold_definitions();
	LOCK TABLE aidb.slot IN SHARE ROW EXCLUSIVE MODE;
	SELECT count(*) INTO kept FROM aidb.slot WHERE group_id = of;
	IF kept > 0 THEN
		RAISE object_in_use USING MESSAGE = format('group "%s" keeps %s slots', name, kept),
			HINT = 'Move them to other groups with aidb-admin group drain.';
	END IF;
	IF EXISTS (SELECT FROM aidb.slot_move WHERE of IN (source_id, target_id)) THEN
		RAISE object_in_use USING MESSAGE = format('slots are being moved from or to group "%s"', name),
			HINT = 'See aidb.slot_move; what was broken off is finished by the coordinator.';
	END IF;
	PERFORM aidb.drop_tables(of);
	DELETE FROM aidb.node_group WHERE group_id = of;
END $$;
COMMENT ON FUNCTION remove_group(text) IS 'forget a group that keeps no slots; its nodes stay known';

CREATE FUNCTION record_move(slots integer[], source integer, target integer) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	changed integer;
BEGIN
	UPDATE aidb.slot SET group_id = target WHERE slot = ANY (slots) AND group_id = source;
	GET DIAGNOSTICS changed = ROW_COUNT;
	UPDATE aidb.slot_move SET moved = true, step = 'open' WHERE slot = ANY (slots) AND source_id = source AND target_id = target AND NOT moved;
	IF NOT FOUND OR changed <> cardinality(slots) THEN
		RAISE object_not_in_prerequisite_state USING MESSAGE = 'these slots are not being moved from that group';
	END IF;
END $$;
COMMENT ON FUNCTION record_move(integer[], integer, integer) IS 'for aidb-admin: the slots are kept by another group from now on';

CREATE FUNCTION set_autoscale("group" text, min_caches integer, max_caches integer, target_reads float8, target_latency_ms float8 DEFAULT 0,
							  max_lag_ms float8 DEFAULT 10000, min_hit_rate float8 DEFAULT 0.1, up_after interval DEFAULT '30 s',
							  down_after interval DEFAULT '10 min', pause interval DEFAULT '1 min', dry_run boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql STRICT AS $$
BEGIN
	INSERT INTO aidb.autoscale AS a VALUES (aidb.group_of("group"), min_caches, max_caches, target_reads, target_latency_ms, max_lag_ms, min_hit_rate,
		extract(epoch FROM up_after), extract(epoch FROM down_after), extract(epoch FROM pause), dry_run)
	ON CONFLICT (group_id) DO UPDATE SET min_caches = excluded.min_caches, max_caches = excluded.max_caches,
		target_reads = excluded.target_reads, target_latency_ms = excluded.target_latency_ms, max_lag_ms = excluded.max_lag_ms,
		min_hit_rate = excluded.min_hit_rate, up_after_s = excluded.up_after_s, down_after_s = excluded.down_after_s,
		pause_s = excluded.pause_s, dry_run = excluded.dry_run;
END $$;
COMMENT ON FUNCTION set_autoscale(text, integer, integer, float8, float8, float8, float8, interval, interval, interval, boolean)
IS 'let a group have as many caching read nodes as its reads per second ask for, each with about target_reads';

CREATE FUNCTION stop_autoscale("group" text) RETURNS void LANGUAGE sql STRICT AS $$
	DELETE FROM aidb.autoscale WHERE group_id = aidb.group_of("group")
$$;
COMMENT ON FUNCTION stop_autoscale(text) IS 'leave the number of caching read nodes of a group as it is';

CREATE FUNCTION note_scaling("group" text, action text, reason text, numbers float8[]) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	of integer := aidb.group_of("group");
BEGIN
	UPDATE aidb.autoscale SET looked_at = clock_timestamp(), finding = reason, reads = numbers[1], latency_ms = numbers[2], lag_ms = numbers[3],
		hit_rate = CASE WHEN numbers[4] >= 0 THEN numbers[4] END WHERE group_id = of;
	IF action <> '' THEN
		INSERT INTO aidb.scaling (group_name, action, dry_run, caches, reason)
		SELECT "group", note_scaling.action, a.dry_run, numbers[5], note_scaling.reason FROM aidb.autoscale a WHERE a.group_id = of;
		INSERT INTO aidb.event (severity, group_name, message) VALUES ('info', "group", format('group %s: %s a caching read node: %s', "group", action, reason));
	END IF;
END $$;
COMMENT ON FUNCTION note_scaling(text, text, text, float8[]) IS 'for coordinators: write down what was found and done';

CREATE FUNCTION moves_broken_off() RETURNS boolean LANGUAGE sql VOLATILE AS $$
	SELECT EXISTS (SELECT FROM aidb.slot_move) AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid::bigint << 32 | l.objid::bigint = 7017294236571234561
			AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;
COMMENT ON FUNCTION moves_broken_off() IS 'for coordinators: whether slots are on their way and nobody moves them';

CREATE FUNCTION check_locale(encoding text, collate_name text, ctype_name text) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	here record;
BEGIN
	SELECT pg_encoding_to_char(d.encoding) AS encoding, d.datcollate, d.datctype INTO here
	FROM pg_catalog.pg_database d WHERE d.datname = current_database();
	IF (here.encoding, here.datcollate, here.datctype) IS DISTINCT FROM (encoding, collate_name, ctype_name) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'the databases of a cluster must have the same encoding and locale',
			DETAIL = format('The coordinator has %s, %s, %s, a node has %s, %s, %s.', encoding, collate_name, ctype_name,
				here.encoding, here.datcollate, here.datctype),
			HINT = 'Create the databases with the same options --encoding and --locale.';
	END IF;
END $$;
COMMENT ON FUNCTION check_locale(text, text, text) IS 'for routers: whether texts are compared here as they are there';

CREATE FUNCTION router_stats() RETURNS TABLE (name text, value bigint)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 4 AS 'MODULE_PATHNAME', 'router_sql_stats';
COMMENT ON FUNCTION router_stats() IS 'what statements over tables of the cluster have done here since the server started';

CREATE FUNCTION router_durations() RETURNS TABLE (target text, seconds float8, count bigint, total_seconds float8)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 40 AS 'MODULE_PATHNAME', 'router_sql_durations';
COMMENT ON FUNCTION router_durations() IS 'how many round trips to nodes took less than so many seconds, and all of them together';

CREATE VIEW stat_router AS
SELECT (s.n->>'connections')::bigint AS connections, (s.n->>'statements')::bigint AS statements, (s.n->>'losses')::bigint AS losses,
	(s.n->>'moved')::bigint AS moved
FROM (SELECT jsonb_object_agg(name, value) AS n FROM aidb.router_stats()) s;
COMMENT ON VIEW stat_router IS 'connections to nodes, statements to them, connections that were lost, transactions whose rows have moved';

CREATE VIEW stat_slots AS
SELECT g.name AS "group", count(s.slot) AS slots, count(m.slot) FILTER (WHERE m.source_id = g.group_id) AS leaving,
	(SELECT count(*) FROM aidb.slot_move c WHERE c.target_id = g.group_id) AS coming
FROM aidb.node_group g LEFT JOIN aidb.slot s USING (group_id) LEFT JOIN aidb.slot_move m USING (slot) GROUP BY g.group_id, g.name ORDER BY g.name;
COMMENT ON VIEW stat_slots IS 'slots by group, and those on their way';

CREATE FUNCTION finish_transactions() RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'router_sql_finish_transactions';
COMMENT ON FUNCTION finish_transactions()
IS 'end what changes of definitions have left prepared on nodes, as they have ended here; returns how many there were';

CREATE FUNCTION add_replica("group" text, node text, role text DEFAULT 'standby') RETURNS void LANGUAGE plpgsql STRICT AS $$
BEGIN
	IF (SELECT count(*) FROM aidb.member WHERE group_id = aidb.group_of("group")) >= 8 THEN
		RAISE program_limit_exceeded USING MESSAGE = format('group "%s" has 8 members, the most there can be', "group");
	END IF;
	INSERT INTO aidb.member VALUES (aidb.node_of(node), aidb.group_of("group"), role);
END $$;
COMMENT ON FUNCTION add_replica(text, text, text)
IS 'let a node follow the primary of a group: a standby, which the coordinator has copied, or a cache, which remembers rows';

CREATE FUNCTION remove_replica("group" text, node text) RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
	of integer := aidb.group_of("group");
	id integer := aidb.node_of(node);
BEGIN
	IF EXISTS (SELECT FROM aidb.node_group WHERE group_id = of AND (primary_id = id OR in_sync_id = id)) THEN
		RAISE object_in_use USING MESSAGE = format('node "%s" is the primary or the in-sync standby of group "%s"', node, "group"),
			HINT = 'Stop the node, or let another one take its place.';
	END IF;
	DELETE FROM aidb.member WHERE node_id = id AND group_id = of;
	IF NOT FOUND THEN
		RAISE undefined_object USING MESSAGE = format('node "%s" is not in group "%s"', node, "group");
	END IF;
END $$;
COMMENT ON FUNCTION remove_replica(text, text) IS 'take a node out of its group';

CREATE FUNCTION failover("group" text, node text DEFAULT NULL, allow_data_loss boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	of integer := aidb.group_of("group");
	id integer := aidb.node_of(node);
BEGIN
	IF EXISTS (SELECT FROM aidb.member WHERE node_id = id AND role = 'cache') THEN
		RAISE object_not_in_prerequisite_state USING MESSAGE = format('node "%s" is a caching read node', node),
			HINT = 'It has no rows of its own.';
	END IF;
	IF id IS NULL AND NOT allow_data_loss THEN
		SELECT in_sync_id INTO id FROM aidb.node_group WHERE group_id = of;
		IF id IS NULL THEN
			RAISE object_not_in_prerequisite_state USING MESSAGE = format('no standby of group "%s" is in sync', "group"),
				HINT = 'Wait for one, or allow the loss of commits that no other node has.';
		END IF;
	END IF;
	UPDATE aidb.node_group SET wanted_id = id, allow_data_loss = failover.allow_data_loss WHERE group_id = of;
END $$;
COMMENT ON FUNCTION failover(text, text, boolean) IS 'have the coordinator make another node the primary of a group';

CREATE FUNCTION group_compare_and_set("group" integer, expected bigint, epoch bigint, "primary" integer, in_sync integer)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	UPDATE aidb.node_group g SET version = version + 1, epoch = group_compare_and_set.epoch, primary_id = "primary", in_sync_id = in_sync,
		wanted_id = CASE WHEN primary_id = "primary" THEN wanted_id END,
		allow_data_loss = allow_data_loss AND primary_id = "primary"
	WHERE group_id = "group" AND version = expected;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION group_compare_and_set(integer, bigint, bigint, integer, integer)
IS 'for coordinators: change the record of a group, if nobody else has';

CREATE FUNCTION lease(holder text, ms integer) RETURNS boolean LANGUAGE plpgsql STRICT AS $$
BEGIN
	INSERT INTO aidb.coordinator AS present VALUES (true, holder, clock_timestamp() + ms * interval '1 ms')
	ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until
	WHERE present.holder = excluded.holder OR present.until < clock_timestamp();
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION lease(text, integer) IS 'for coordinators: the right to act for so long; false when another has it';

-- The catalog as a script, with the tables of the cluster, for a coordinator's server that is made anew. The nodes have the tables.
CREATE FUNCTION catalog_script() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
	script text := E'SET aidb.tables_exist = on;\n';
	name text;
	relation record;
BEGIN
	FOREACH name IN ARRAY '{node,node_group,member,slot}'::text[] LOOP
		DECLARE
			contents jsonb;
		BEGIN
			EXECUTE format('SELECT jsonb_agg(t) FROM aidb.%I t', name) INTO contents;
			script := script || format(E'INSERT INTO aidb.%I OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::aidb.%I, %L);\n',
				name, name, coalesce(contents, '[]'));
		END;
	END LOOP;
	script := script || format(E'SELECT setval(pg_get_serial_sequence(''aidb.node'', ''node_id''), %s);\n'
		'SELECT setval(pg_get_serial_sequence(''aidb.node_group'', ''group_id''), %s);\nSELECT setval(''aidb.index_id'', %s, true);\n',
		(SELECT coalesce(max(node_id), 0) + 1 FROM aidb.node), (SELECT coalesce(max(group_id), 0) + 1 FROM aidb.node_group),
		(SELECT last_value FROM aidb.index_id));
	FOR relation IN SELECT c.oid, n.nspname, c.relname, f.ftoptions FROM pg_catalog.pg_foreign_table f
		JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'aidb_cluster'
		JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 2, 3
	LOOP
		script := script || format(E'CREATE SCHEMA IF NOT EXISTS %I;\nCREATE FOREIGN TABLE %I.%I (', relation.nspname, relation.nspname, relation.relname);
		script := script || (SELECT string_agg(format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
				|| CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || (SELECT format('%I.%I', cn.nspname, co.collname)
					FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) ELSE '' END
				|| CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
				|| coalesce(' DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), ', ' ORDER BY a.attnum)
			FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
			LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
			WHERE a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped);
		script := script || coalesce((SELECT string_agg(format(', CONSTRAINT %I %s', conname, pg_catalog.pg_get_constraintdef(oid)), '' ORDER BY conname)
			FROM pg_catalog.pg_constraint WHERE conrelid = relation.oid AND contype = 'c'), '');
		script := script || (SELECT format(', PRIMARY KEY (%s)', string_agg(format('%I', a.attname), ', ' ORDER BY substr(o, 5)::int))
			FROM pg_catalog.pg_attribute a, unnest(a.attfdwoptions) o WHERE a.attrelid = relation.oid AND o LIKE 'key=%');
		script := script || ') SERVER aidb_cluster' || coalesce((SELECT format(' OPTIONS (%s)', string_agg(format('%I %L', split_part(o, '=', 1),
			substr(o, strpos(o, '=') + 1)), ', ')) FROM unnest(relation.ftoptions) o), '') || E';\n';
	END LOOP;
	RETURN script;
END $$;
COMMENT ON FUNCTION catalog_script() IS 'SQL that makes the catalog anew, and the tables of the cluster, in another database';

CREATE FUNCTION hold_definitions() RETURNS void LANGUAGE sql AS $$ SELECT pg_catalog.pg_advisory_xact_lock(7017294236571234560) $$;
COMMENT ON FUNCTION hold_definitions() IS 'until the transaction ends, nobody changes definitions of tables of the cluster';

CREATE VIEW nodes AS
SELECT n.name, n.state, g.name AS "group",
	CASE WHEN g.primary_id = n.node_id THEN 'primary' WHEN g.in_sync_id = n.node_id THEN 'in-sync standby'
		WHEN g.group_id IS NOT NULL THEN m.role END AS role,
	n.detail, regexp_replace(n.conninfo, 'password=\S*', 'password=...') AS conninfo
FROM aidb.node n LEFT JOIN aidb.member m USING (node_id) LEFT JOIN aidb.node_group g USING (group_id)
ORDER BY g.name, role, n.name;

CREATE VIEW groups AS
SELECT g.name, g.epoch, p.name AS "primary", i.name AS in_sync, g.synchronous,
	(SELECT string_agg(n.name, ', ' ORDER BY n.name) FROM aidb.member m JOIN aidb.node n USING (node_id)
		WHERE m.group_id = g.group_id AND m.role = 'standby' AND m.node_id NOT IN (g.primary_id, coalesce(g.in_sync_id, 0))) AS other_standbys,
	(SELECT string_agg(n.name, ', ' ORDER BY n.name) FROM aidb.member m JOIN aidb.node n USING (node_id)
		WHERE m.group_id = g.group_id AND m.role = 'cache') AS caches
FROM aidb.node_group g JOIN aidb.node p ON p.node_id = g.primary_id LEFT JOIN aidb.node i ON i.node_id = g.in_sync_id
ORDER BY g.name;

CREATE VIEW slots AS
SELECT s.slot, g.name AS "group", p.name AS "primary"
FROM aidb.slot s JOIN aidb.node_group g USING (group_id) JOIN aidb.node p ON p.node_id = g.primary_id
ORDER BY s.slot;

CREATE VIEW events AS
SELECT at, severity, group_name AS "group", node_name AS node, message FROM aidb.event ORDER BY event_id;

REVOKE ALL ON FUNCTION node_of(text), group_of(text), add_node(text, text), remove_node(text), add_group(text, text, boolean, float8),
	add_replica(text, text, text), remove_replica(text, text), failover(text, text, boolean),
	group_compare_and_set(integer, bigint, bigint, integer, integer), lease(text, integer), announce(), announce_event(), map_changed(),
	has_tables(), prepare_primary(integer), make_tables(integer), drop_tables(integer), wanted_slots(text), planned_moves(text),
	drain_group(text, boolean), remove_group(text), record_move(integer[], integer, integer), moves_broken_off(),
	set_autoscale(text, integer, integer, float8, float8, float8, float8, interval, interval, interval, boolean), stop_autoscale(text),
	note_scaling(text, text, text, float8[]), router_stats(), router_durations(), slot_placement(integer[], float8[]), finish_transactions(), catalog_script(), hold_definitions(), check_locale(text, text, text), partial_int2(int2),
	partial_int4(int4), partial_int8(int8), partial_numeric(numeric), partial_float4(float4), partial_float8(float8),
	partial_interval(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION aidb_fdw_handler() FROM PUBLIC;
REVOKE ALL ON FUNCTION aidb_fdw_validator(text[], oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION router_fdw_handler() FROM PUBLIC;
REVOKE ALL ON FUNCTION router_fdw_validator(text[], oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION put(text, bytea, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION get(text, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION delete(text, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION batch_put(text, bytea[], bytea[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION batch_get(text, bytea[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION scan(text, bytea, bytea, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION stats(), durations() FROM PUBLIC;
REVOKE ALL ON FUNCTION flush() FROM PUBLIC;
REVOKE ALL ON FUNCTION health() FROM PUBLIC;
REVOKE ALL ON FUNCTION give_index_id(bigint) FROM PUBLIC;
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
REVOKE ALL ON FUNCTION closed_slots(), close_slots(integer[]), open_slots(integer[]), keep_slots(integer[]), slots_mark(integer[]), slots_hold(), slots_release(),
	slots_read(integer[], bytea, integer), slots_write(bytea), slots_sync(), slots_digest(integer[]), slots_purge(integer[], integer),
	slots_size(integer[]), table_index_id(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION backup_start(), backup_files(), backup_read(text, bigint, integer), backup_stop(), restore_point(text),
	store_id(), restore_begin(bigint, bigint, bigint), restore_apply(bytea), restore_finish() FROM PUBLIC;
REVOKE ALL ON FUNCTION rows_get(bigint, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION rows_scan(bigint, bytea, bytea, boolean, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION token() FROM PUBLIC;

-- Who may see statistics of PostgreSQL sees these, too.
GRANT USAGE ON SCHEMA aidb TO pg_monitor;
GRANT EXECUTE ON FUNCTION stats(), durations(), node_status(), stream_slots(), health(), router_stats(), router_durations(), closed_slots()
	TO pg_monitor;
GRANT SELECT ON stat_commit, stat_log, stat_level, stat_compaction, stat_cache, stat_duration, stat_replication, stat_router, backup TO pg_monitor;
