#!/bin/bash
#
# For benchmarks of the extension, which source this: a PostgreSQL server of their own with the installed extension, and
# what they print. As root, the server runs as user postgres. Environment: PG_CONFIG, TMPDIR.

pg_config=${PG_CONFIG:-pg_config}
bindir=$("$pg_config" --bindir)
work=
as_server=()

die() {
	echo "$0: $*" >&2
	exit 1
}

# start_server SETTING...: lines for postgresql.conf; sets `work` to a directory of the server's, and goes there
start_server() {
	trap stop_server EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	work=$(mktemp -d "${TMPDIR:-/tmp}/aidb-bench.XXXXXX")
	if [ "$(id -u)" -eq 0 ]; then
		chown postgres: "$work"
		as_server=(runuser -u postgres --)
	fi
	cd "$work"
	"${as_server[@]}" "$bindir/initdb" -D "$work/data" -U postgres -A trust --no-locale -E UTF8 -N >/dev/null
	"${as_server[@]}" tee -a "$work/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$work'
		shared_preload_libraries = 'aidb'
		max_wal_size = '8GB'
		checkpoint_timeout = '1h'
		autovacuum = off
		$(printf '%s\n' "$@")
	CONF
	"${as_server[@]}" "$bindir/pg_ctl" start -D "$work/data" -l "$work/log" -w >/dev/null ||
		die "the server did not start: $(tail -n 5 "$work/log")"
	sql "CREATE EXTENSION aidb"
}

# add_server NAME PORT SETTING...: another one in the same directory, to be asked with sql_on
add_server() {
	local data=$work/$1 port=$2
	shift 2
	"${as_server[@]}" "$bindir/initdb" -D "$data" -U postgres -A trust --no-locale -E UTF8 -N >/dev/null
	"${as_server[@]}" tee -a "$data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		port = $port
		unix_socket_directories = '$work'
		shared_preload_libraries = 'aidb'
		$(printf '%s\n' "$@")
	CONF
	"${as_server[@]}" "$bindir/pg_ctl" start -D "$data" -l "$data.log" -w >/dev/null ||
		die "server $1 did not start: $(tail -n 5 "$data.log")"
	sql_on "$port" "CREATE EXTENSION aidb"
}

# sql_on PORT TEXT...: statements for another server
sql_on() {
	local port=$1
	shift
	PGPORT=$port sql "$@"
}

stop_server() {
	[ -n "$work" ] || return 0
	local pid_file data
	for pid_file in "$work"/*/postmaster.pid; do
		[ -f "$pid_file" ] || continue
		data=$(dirname "$pid_file")
		"${as_server[@]}" "$bindir/pg_ctl" stop -D "$data" -m fast -w -t 60 >/dev/null ||
			"${as_server[@]}" "$bindir/pg_ctl" stop -D "$data" -m immediate -w >/dev/null || true
	done
	cd /
	rm -rf "$work"
	work=
}

# psql_server ARGUMENT...: psql that prints bare results and ends at the first error
psql_server() {
	"$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$work" -U postgres -d postgres "$@"
}

# sql TEXT...: runs statements, each its own transaction
sql() {
	local statement arguments=()
	for statement in "$@"; do
		arguments+=(-c "$statement")
	done
	psql_server "${arguments[@]}"
}

# spread FILE: median, lowest and highest of the numbers in it
spread() {
	sort -n "$1" | awk '{ v[NR] = $1 }
		END { printf "%.9g %.9g %.9g\n", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2, v[1], v[NR] }'
}

# result NAME VALUE UNIT least|most TARGET: the line of the summary, and whether the target is met
result() {
	awk -v name="$1" -v value="$2" -v unit="$3" -v bound="$4" -v target="$5" 'BEGIN {
		met = bound == "least" ? value >= target : value <= target
		printf "result: %-40s %8.2f %s (target: at %s %.2f, %s)\n", name, value, unit, bound, target,
			(met ? "met" : "missed") }'
}
