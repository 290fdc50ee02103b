# What the demos have in common; to be sourced, with `here` and `place` set.

unicode=/usr/share/unicode
slice_rows=100000 # rows of one COPY
limit_s=60        # for anything that is waited for

# ---- Talking -------------------------------------------------------------------------------------------------

if [ -t 1 ]; then
	bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
else
	bold='' dim='' plain=''
fi

title() {
	printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

say() {
	printf '  %s\n' "$@"
}

die() {
	printf '\ndemo: %s\n' "$1" >&2
	exit 1
}

now() {
	date +%s.%N
}

# since START: seconds, with one decimal
since() {
	awk -v from="$1" -v to="$(now)" 'BEGIN {printf "%.1f", to - from}'
}

# progress TEXT DONE ALL: a bar on a terminal, otherwise only the end
progress() {
	local width=30 filled=$(($2 * 30 / $3))
	if [ -t 1 ]; then
		printf '\r  %-24s [%-*s] %3d %%' "$1" "$width" "$(printf '%*s' "$filled" '' | tr ' ' '#')" $(($2 * 100 / $3))
	elif [ "$2" -eq "$3" ]; then
		printf '  %-24s' "$1"
	fi
}

# ---- The owner ------------------------------------------------------------------------------------------------

# Runs a command as the user whose the server is.
as_owner() {
	if [ "$(id -u)" -eq 0 ]; then
		runuser -u postgres -- env -C / LC_ALL=C.UTF-8 "$@"
	else
		env -C / LC_ALL=C.UTF-8 "$@"
	fi
}

# ---- Data -----------------------------------------------------------------------------------------------------

# The Unihan database as rows of (code, property, value), in slices.
unpack_data() {
	bzcat "$unicode"/Unihan_*.txt.bz2 |
		perl -ne 'printf "%d\t%s\t%s\n", hex $1, $2, $3 =~ s/\\/\\\\/gr if /^U\+([0-9A-F]+)\t(\w+)\t(.*)$/' |
		split -l "$slice_rows" - "$place/rows."
	chmod 644 "$place"/rows.*
}
