#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
# Images that are missing, cut, swapped or damaged: restore says which, in one sentence, and leaves
# nothing of a tree behind. What happens to be harmless is restored; it is never let run (-s).
# DAMAGES=N random damages (default 60); SEED repeats a run.
. "$(dirname "$0")/lib.sh"
requires_root

# restore_damaged IMAGES: status 0 restored, 1 refused with $words, 2 anything else ($why). Whatever
# there is afterwards is killed.
restore_damaged() {
	local status left
	words=$(timeout 60 "$FERRY" restore -d -s -D "$1" -o restore.log 2>&1 </dev/null)
	status=$?
	if [ $status -gt 1 ]; then
		why="ended with status $status: $words"
		return 2
	elif [ $status = 0 ]; then
		for left in $pids; do
			[ -e "/proc/$left" ] && kill_tree "$left"
		done
		return 0
	fi
	for left in $pids; do
		if [ -e "/proc/$left" ] && ! wait_gone "$left"; then
			kill_tree "$left"
			why="pid $left is left behind after: $words"
			return 2
		fi
	done
	if [ "$(wc -l <<<"$words")" != 1 ] || [ -z "$words" ]; then
		why="not one sentence: $words"
		return 2
	fi
	return 1
}

# must_refuse NAME WORD: restore of $work is refused, and the sentence has the word.
must_refuse() {
	restore_damaged "$work"
	case $? in
	0) not_ok "$1" "was restored" ;;
	2) not_ok "$1" "$why" ;;
	*)
		if grep -qF -- "$2" <<<"$words"; then
			ok "$1"
		else
			not_ok "$1" "$2 is not named: $words"
		fi
		;;
	esac
}

fresh() {
	rm -rf "$work"
	cp -r "$good" "$work"
}

start_victim family || skip_all "the victim: $why"
good=$vdir/images
work=$vdir/damaged
pids=$(descendants "$pid")
dump "$FERRY" "$pid" "$good" || skip_all "no images: $why"
wait_gone "$pid"

fresh
restore_damaged "$work" || not_ok whole "the undamaged images were not restored: ${why:-$words}"

# One image at a time is missing, cut in its middle, or cut by one byte. One image of each kind: of
# those that are named by a pid the root's.
for image in "$good"/*.img; do
	image=${image##*/}
	case $image in
	core-* | ids-* | mm-* | fs-* | pagemap-[0-9]*) [[ $image = *-$pid.img ]] || continue ;;
	pages-[0-9]*) [ "$image" = pages-1.img ] || continue ;;
	esac
	case $image in
	pipes-data.img | fdinfo-* | timens-* | seccomp.img) ;; # may be absent: nothing of that kind
	*)
		fresh
		rm "$work/$image"
		must_refuse "$image missing" "$image"
		;;
	esac
	size=$(stat -c %s "$good/$image")
	for cut in $((size / 2)) $((size - 1)) 5; do
		fresh
		truncate -s "$cut" "$work/$image"
		must_refuse "$image cut at $cut of $size" "$image"
	done
done

# Two images change places.
for pair in "mm core" "fs ids" "ids mm" "core pagemap" "pagemap fs"; do
	read -r a b <<<"$pair"
	fresh
	mv "$work/$a-$pid.img" "$work/x"
	mv "$work/$b-$pid.img" "$work/$a-$pid.img"
	mv "$work/x" "$work/$b-$pid.img"
	must_refuse "swapped $a and $b" "-$pid.img"
done

# Random damage: nothing but "restored" or "refused" may happen.
seed=${SEED:-$RANDOM}
restored=0 refused=0 strange=0
for i in $(seq "${DAMAGES:-60}"); do
	fresh
	python3 - "$work" "$seed$i" <<-'EOF'
		import pathlib, random, re, sys
		rng = random.Random(sys.argv[2])
		images = sorted(p for p in pathlib.Path(sys.argv[1]).glob("*.img") if not re.match("pages-", p.name))
		for image in rng.sample(images, rng.choice((1, 1, 2))):
		    data = bytearray(image.read_bytes())
		    for _ in range(rng.choice((1, 1, 2, 8))):
		        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
		    image.write_bytes(data)
	EOF
	restore_damaged "$work"
	case $? in
	0) restored=$((restored + 1)) ;;
	1) refused=$((refused + 1)) ;;
	*)
		strange=$((strange + 1))
		not_ok "random damage $i" "SEED=$seed: $why"
		;;
	esac
done
echo "random damage: $refused refused, $restored harmless" >&2
[ $strange != 0 ] || ok "random damage"
finish
