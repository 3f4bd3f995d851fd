#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 600
# ferry show: text and JSON of each image of a real dump, exit statuses, and what it says of damage.
. "$(dirname "$0")/lib.sh"
requires_root

# expect NAME STATUS PATTERN COMMAND...: exit status, and what the output (both streams) has.
expect() {
	local name=$1 want=$2 pattern=$3 output status
	shift 3
	output=$(timeout 30 "$@" 2>&1 </dev/null)
	status=$?
	if [ $status != "$want" ]; then
		not_ok "$name" "status $status, not $want: $(head -n 3 <<<"$output")"
	elif ! grep -qE -- "$pattern" <<<"$output"; then
		not_ok "$name" "no '$pattern' in: $(head -n 5 <<<"$output")"
	else
		ok "$name"
	fi
}

start_victim family || skip_all "the victim: $why"
images=$vdir/images
dump "$FERRY" "$pid" "$images" || skip_all "no images: $why"

expect text 0 'comm: "?family' "$FERRY" show "$images/core-$pid.img"
expect "text of all" 0 "^pstree.img: PSTREE" "$FERRY" show "$images"
expect "raw image" 0 '^raw, [0-9]+ bytes' "$FERRY" show "$images/pages-1.img"
expect "raw image as JSON" 0 '\{"raw": [0-9]+\}' "$FERRY" show --json "$images/pages-1.img"
expect "flags spelled out" 0 'PROT_READ \| PROT_EXEC' "$FERRY" show --pretty "$images/mm-$pid.img"
expect "no file" 1 'nothing: No such file' "$FERRY" show "$vdir/nothing"
expect "no argument" 2 'show' "$FERRY" show
expect "unknown option" 2 'xyz' "$FERRY" show --xyz "$images"
mkdir "$vdir/empty"
expect "no images" 1 'no images' "$FERRY" show "$vdir/empty"
expect "not an image" 1 'unknown magic' "$FERRY" show "$VICTIMS/family"
head -c 100 "$images/core-$pid.img" >"$vdir/core-$pid.img"
expect "cut image" 1 'offset' "$FERRY" show "$vdir/core-$pid.img"
mkdir "$vdir/half"
cp "$images/pstree.img" "$vdir/core-$pid.img" "$vdir/half"
expect "the rest of a damaged directory" 1 "ppid: $pid" "$FERRY" show "$vdir/half"
expect "a full disk" 1 'cannot write' sh -c "'$FERRY' show '$images' >/dev/full"

# The same values as crit, number for number.
crit=${CRIU_ROOT:-/var/tmp/ferry-criu}/usr/bin/crit.host
if [ ! -x "$crit" ]; then
	skip "same as crit" "no real CRIU here"
else
	"$FERRY" show --json "$images" >"$vdir/all.json"
	for image in "core-$pid" "mm-$pid" "pagemap-$pid" files; do
		timeout 60 "$crit" decode -i "$images/$image.img" -o "$vdir/$image.img.json"
	done
	if why=$(python3 - "$vdir" <<-'EOF' 2>&1
		import glob, json, os, sys
		ours, compared = json.load(open(sys.argv[1] + "/all.json")), 0

		def plain(value):
		    """crit breaks base64 into lines, and does not know the fields that are ours."""
		    if isinstance(value, dict):
		        return {k: plain(v) for k, v in value.items() if not k.startswith("ferry_")}
		    if isinstance(value, list):
		        return [plain(v) for v in value]
		    return value.replace("\n", "") if isinstance(value, str) else value

		for path in glob.glob(sys.argv[1] + "/*.img.json"):
		    name = os.path.basename(path)[:-5]
		    if plain(json.load(open(path))) != plain(ours[name]):
		        sys.exit(name + " differs")
		    compared += 1
		sys.exit(None if compared == 4 else f"only {compared} images")
		EOF
	); then
		ok "same as crit"
	else
		not_ok "same as crit" "$why"
	fi
fi
finish
