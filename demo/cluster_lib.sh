# Servers of a cluster on this machine, for demos; to be sourced after lib.sh, with `bindir`, `programs` and `memory` set.

declare -A port=()

# ---- Servers -------------------------------------------------------------------------------------------------

# query NODE ARGUMENT...
query() {
	local node=$1
	shift
	env LC_ALL=C.UTF-8 PGOPTIONS='-c client_min_messages=warning' \
		"$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$place" -p "${port[$node]}" -U postgres -d postgres "$@"
}

conninfo() {
	echo "host=$place port=${port[$1]} user=postgres dbname=postgres"
}

# Sockets are in the one directory, so any numbers will do.
make_server() {
	local node=$1 data=$place/$1
	as_owner "$bindir/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 >"$place/$1.initdb.log" 2>&1
	cat >>"$data/postgresql.conf" <<-CONF
		shared_preload_libraries = 'aidb'
		aidb.memory = $memory
		aidb.row_cache = 16MB
		shared_buffers = 32MB
		max_prepared_transactions = 10
		listen_addresses = ''
		port = ${port[$node]}
		unix_socket_directories = '$place'
		unix_socket_permissions = 0700
	CONF
	start_server "$node"
	query "$node" -c 'CREATE EXTENSION aidb'
}

start_server() {
	as_owner "$bindir/pg_ctl" -D "$place/$1" -l "$place/$1.log" -w -t "$limit_s" start >"$place/$1.start.log" 2>&1 ||
		die "server $1 does not start: $(tail -n 3 "$place/$1.log")"
}

# Processes of a server: their current directory is its data directory.
processes() {
	local cwd
	for cwd in /proc/[0-9]*/cwd; do
		[ "$(readlink "$cwd" 2>/dev/null)" != "$place/$1" ] || basename "$(dirname "$cwd")"
	done
}

# As the end of the machine would.
kill_server() {
	local pids
	pids=$(processes "$1")
	# shellcheck disable=SC2086
	kill -STOP $pids && kill -KILL $pids
	rm -f "$place/$1/postmaster.pid" "$place/.s.PGSQL.${port[$1]}.lock"
}

finish() {
	local status=$? node
	trap - EXIT INT TERM
	pkill -f -- "aidb_coordinator --conninfo=host=$place" || true
	[ "$status" -eq 0 ] || tail -n 5 "$place"/coordinator.log "$place"/[a-z][0-9].log 2>/dev/null | sed 's/^/  | /' >&2 || true
	for node in "${!port[@]}"; do
		as_owner "$bindir/pg_ctl" -D "$place/$node" -m immediate stop >/dev/null 2>&1 || true
	done
	wait 2>/dev/null || true
	rm -rf "$place"
	exit "$status"
}

# ---- Waiting -------------------------------------------------------------------------------------------------

admin() {
	AIDB_CLUSTER=$(conninfo catalog) "$programs/aidb-admin" "$@"
}

# wait_for SQL EXPECTED: until the catalog says so
wait_for() {
	local begin=$SECONDS
	until [ "$(query catalog -At -c "$1" 2>/dev/null)" = "$2" ]; do
		[ $((SECONDS - begin)) -lt "$limit_s" ] || die "waited for too long: $1"
		sleep 0.05
	done
}

# wait_streaming NODE: until it follows its primary
wait_streaming() {
	local begin=$SECONDS
	until [ "$(query "$1" -At -c 'SELECT state FROM aidb.node_status()')" = streaming ]; do
		[ $((SECONDS - begin)) -lt "$limit_s" ] || die "node $1 does not follow its primary"
		sleep 0.05
	done
}

# ---- Beginning -----------------------------------------------------------------------------------------------

# set_up NODE...: a place for them, and a port for each
set_up() {
	local node
	chmod 755 "$place"
	[ "$(id -u)" -ne 0 ] || chown postgres: "$place"
	as_owner test -w "$place" || die "the user postgres has no access to $place; set TMPDIR to a directory where it has"
	for node in "$@"; do
		port[$node]=$((54400 + ${#port[@]}))
	done
}

# The Unihan database through the coordinator's database, into a table that is there.
load_unihan() {
	local begin slices slice loaded=0
	unpack_data
	slices=("$place"/rows.*)
	begin=$(now)
	progress 'loading' 0 ${#slices[@]}
	for slice in "${slices[@]}"; do
		query catalog -c 'SET aidb.multi_group_writes = separately' -c "\\copy unihan FROM '$slice'"
		progress 'loading' $((++loaded)) ${#slices[@]}
	done
	rm -f "${slices[@]}"
	printf '  %6s s\n' "$(since "$begin")"
}
