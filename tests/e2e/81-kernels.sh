#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 1500
# Other kernels, in virtual machines (tests/hosts/vm.sh): victims dumped and restored inside, images
# carried from here to there and back, and programs migrated from there to here; with processors
# that differ from the one here, so that the areas of extended registers, the vdso and what the C
# library has chosen differ. FERRY_FULL=1 takes every victim to every kernel.
. "$(dirname "$0")/lib.sh"
requires_root
requires qemu-system-x86_64 busybox python3 apt-get dpkg-deb xz
. tests/hosts/vm.sh

# in_vm NAME SCRIPT: bash in the machine, with lib.sh.
in_vm() {
	vm "$1" "cd $PWD && export PATH=/bin:/sbin:/usr/bin BUILD_DIR=$BUILD_DIR FERRY=$FERRY VICTIMS=$VICTIMS" \
		"TEST_TMP=$TEST_TMP/in LD_BIND_NOW=1 && mkdir -p $TEST_TMP/in &&" \
		"bash -c $(printf %q ". tests/e2e/lib.sh; trap - EXIT; $2") $PWD/tests/e2e/lib.sh"
}

# The victims' own round trips inside.
inside() { # NAME VICTIM...
	local name=$1 line
	shift
	VM_LIMIT=300 vm "$name" "cd $PWD && export PATH=/bin:/sbin:/usr/bin BUILD_DIR=$BUILD_DIR FERRY=$FERRY" \
		"VICTIMS=$VICTIMS TEST_TMP=/tmp/inside && mkdir -p /tmp/inside &&" \
		"bash tests/e2e/10-victims.sh $*" >"$TEST_TMP/$name.inside"
	while read -r line; do
		case $line in
		"ok "*) ok "$name, ${line#ok }" ;;
		"not ok "*) not_ok "$name, $(cut -d: -f1 <<<"${line#not ok }")" "${line#*: }" ;;
		"skip "*) skip "$name, $(cut -d: -f1 <<<"${line#skip }")" "${line#*: }" ;;
		esac
	done <"$TEST_TMP/$name.inside"
	grep -q "^ok " "$TEST_TMP/$name.inside" || not_ok "$name" "no result: $(tail -n 3 "$TEST_TMP/$name.inside")"
}

# A processor model without what is not here, so that a program that started on it can come. (The
# emulation of bit counting is wrong with bmi1 but without abm.)
like_here() {
	local flag model=max,-mpx
	for flag in pclmulqdq ssse3 fma movbe popcnt aes xsave avx f16c rdrand fsgsbase bmi1 avx2 bmi2 \
		erms rdseed adx clflushopt clwb sha_ni gfni vaes rdpid xsaveopt xsavec abm sse4a rdtscp pku; do
		grep -qw "$flag" /proc/cpuinfo || model=$model,-${flag/_/-}
	done
	[[ $model != *-abm* ]] || model=$model,-bmi1,-bmi2
	echo "$model"
}

# start_in NAME VICTIM: sets vdir and pid, both as they are in the machine.
start_in() {
	local out
	out=$(in_vm "$1" "start_victim $2 && echo \"\$vdir \$pid\" || echo \"failed \$why\"") || {
		why="$2 does not start in $1: $out"
		return 1
	}
	read -r vdir pid <<<"$(tail -n 1 <<<"$out")"
	[ "$vdir" != failed ] || {
		why="$2 does not start in $1: $pid"
		return 1
	}
}

verdict_in() { # NAME
	why=$(in_vm "$1" "vdir=$vdir pid=$pid; verdict 30 && echo PASS || echo \"\$why\"" | tail -n 1)
	[ "$why" = PASS ]
}

untouched_in() { # NAME
	in_vm "$1" "grep -q '^TracerPid:.0\$' /proc/$pid/status && grep -q '^State:.[RS]' /proc/$pid/status"
}

# A program comes from the machine; here it finds another vdso. Where the processor here saves more
# registers, and that one has no xsavec, it is refused: its dynamic linker would write over the stack.
comes_here() { # NAME VICTIM
	local name="from $1 to here, $2" out status
	start_in "$1" "$2" || {
		not_ok "$name" "$why"
		return
	}
	mkdir -p "$vdir"
	out=$(VM_LIMIT=120 vm "$1" "cd / && ferry migrate --files=copy $pid here --ssh '$(vm_back)'")
	status=$?
	if [ $status != 0 ] && larger_here "$1"; then
		if ! grep -q "the processor state there is larger" <<<"$out"; then
			not_ok "$name" "does not name the registers: $out"
		elif untouched_in "$1" && verdict_in "$1"; then
			ok "$name, refused for larger registers"
		else
			not_ok "$name" "the program is not as before: $why"
		fi
	elif [ $status != 0 ]; then
		not_ok "$name" "$out $(tail -n 2 "$TEST_TMP/back.err")"
	elif in_vm "$1" "alive $pid" >/dev/null; then
		not_ok "$name" "it is still there"
	elif ! verdict_here; then
		not_ok "$name" "$why"
	else
		ok "$name"
	fi
}

larger_here() { # NAME
	grep -qw avx512f /proc/cpuinfo && ! vm "$1" "grep -qw xsavec /proc/cpuinfo" >/dev/null
}

# get_from NAME DIR: a folder of the machine, here.
get_from() {
	# shellcheck disable=SC2046
	timeout 60 $(vm_rsh "$1") vm "tar -C / -cf - ${2#/}" </dev/null | tar -C / -xf -
}

# Dumped there, restored here.
images_here() { # NAME VICTIM
	local name="images from $1 to here, $2" out=
	start_in "$1" "$2" && out=$(in_vm "$1" "vdir=$vdir; dump \$FERRY $pid $vdir/images $(victim_options "$2") || { echo \"\$why\"; exit 1; }") || {
		not_ok "$name" "$why $out"
		return
	}
	get_from "$1" "$vdir"
	# shellcheck disable=SC2046
	if ! restore "$FERRY" "$vdir/images" --pids=auto $(victim_options "$2"); then
		not_ok "$name" "$why"
	elif ! verdict_here; then
		not_ok "$name" "$why"
	else
		ok "$name"
	fi
}

# Its pid here may be another one.
verdict_here() {
	: >"$vdir/verify"
	wait_for 30 test -e "$vdir/result" || {
		why="victim gives no verdict"
		return 1
	}
	why=$(cat "$vdir/result")
	[ "$why" = PASS ]
}

# The processor there has what ours has not: refused before anything is stopped.
refused_here() { # NAME
	local name="from $1 to here, refused for the processor" out
	start_in "$1" vdso || {
		not_ok "$name" "$why"
		return
	}
	if out=$(vm "$1" "cd / && ferry migrate --files=copy $pid here --ssh '$(vm_back)'"); then
		not_ok "$name" "it was migrated: $out"
	elif ! grep -q "processor there lacks" <<<"$out"; then
		not_ok "$name" "does not name the processor: $out"
	elif ! untouched_in "$1"; then
		not_ok "$name" "the program is not as before"
	elif ! verdict_in "$1"; then
		not_ok "$name" "$why"
	else
		ok "$name"
	fi
}

# To a machine: migrated when its processor has all of ours, refused by name otherwise.
goes_there() { # NAME
	local name="from here to $1" lacks out status
	start_victim vdso || {
		not_ok "$name" "$why"
		return
	}
	lacks=$(vm "$1" "grep -m1 ^flags /proc/cpuinfo" | tr ' ' '\n' | sort >"$TEST_TMP/flags"
		grep -m1 ^flags /proc/cpuinfo | tr ' ' '\n' | grep -E '^(avx|fma|bmi|sse|aes|vaes|sha)' | sort |
			comm -23 - "$TEST_TMP/flags" | head -n 1)
	in_vm "$1" "mkdir -p $vdir"
	out=$(timeout -k 5 120 "$FERRY" migrate "$pid" there --ssh "$(vm_rsh "$1")" 2>&1)
	status=$?
	if [ -n "$lacks" ] && { [ $status = 0 ] || ! grep -q "processor there lacks.*$lacks" <<<"$out"; }; then
		not_ok "$name" "status $status, does not name $lacks: $out"
	elif [ -n "$lacks" ]; then
		verdict && ok "$name, refused for the processor" || not_ok "$name" "$why"
	elif [ $status != 0 ]; then
		not_ok "$name" "$out"
	else
		verdict_in "$1" && ok "$name" || not_ok "$name" "$why"
	fi
}

# What the C library must not choose, for the registers to fit elsewhere. Functions are looked up at
# the start: the dynamic linker saves registers in a way that it has chosen for the processor.
plain=GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX512_VBMI2

# Dumped here, restored there.
images_there() { # NAME VICTIM
	local name="images from here to $1, $2" out
	# The library reads it when a program starts.
	(
		export "${plain?}" LD_BIND_NOW=1
		start_victim "$2" && echo "$vdir $pid" >"$TEST_TMP/started"
	) || {
		not_ok "$name" "does not start"
		return
	}
	read -r vdir pid <"$TEST_TMP/started"
	# shellcheck disable=SC2046
	if ! dump "$FERRY" "$pid" "$vdir/images" $(victim_options "$2"); then
		not_ok "$name" "$why"
		kill_tree "$pid"
		return
	fi
	# shellcheck disable=SC2046
	tar -C / -cf - "${vdir#/}" 2>"$TEST_TMP/tar.err" |
		timeout 60 $(vm_rsh "$1") vm "tar -C / -xf - && echo done" | grep -q done
	out=$(in_vm "$1" "vdir=$vdir pid=$pid; restore \$FERRY \$vdir/images $(victim_options "$2") || { echo \"\$why\"; exit 1; }") || {
		not_ok "$name" "$out"
		return
	}
	if verdict_in "$1"; then
		ok "$name"
	else
		not_ok "$name" "$why"
	fi
}

# Registers that the other processor has not got: refused by name, nothing is left behind.
images_refused() { # NAME
	local name="images with other registers" out
	start_in "$1" fpu && out=$(in_vm "$1" "vdir=$vdir; dump \$FERRY $pid $vdir/images || { echo \"\$why\"; exit 1; }") || {
		not_ok "$name" "$why $out"
		return
	}
	get_from "$1" "$vdir"
	if restore "$FERRY" "$vdir/images" --pids=new; then
		not_ok "$name" "it was restored"
	elif ! grep -q "which the CPU here has not got" <<<"$why"; then
		not_ok "$name" "does not name the registers: $why"
	elif pgrep -f "$VICTIMS/fpu $vdir" >/dev/null; then
		not_ok "$name" "half a tree is left"
	else
		ok "$name"
	fi
}

# --- the machines ---

machines=
machine() { # NAME SERIES CPU
	if ! vm_kernel "$2"; then
		skip "$1" "$why"
		return
	fi
	vm_boot "$1" "$3"
	machines="$machines $1"
}
machine linux-6.1 6.1 max
machine linux-6.12 6.12 "$(like_here)"
[ -n "$machines" ] || finish
vm_listen

few="threads cow mem_anon_shared mem_file_shared growsdown fpu vdso rseq posixtimers timerfd pipes
	unix_pair unix_named tcp_listen udp_bound files ghost pty restart_plain restart_block zombies"
in_machine() { # NAME
	local name=$1 victim
	vm_ready "$name" || {
		not_ok "$name" "$why"
		return
	}
	# shellcheck disable=SC2046,SC2086 # words
	if [ -n "${FERRY_FULL:-}" ]; then
		inside "$name" $(all_victims)
	else
		inside "$name" $few
	fi
	case $name in
	linux-6.1)
		if grep -qw pku /proc/cpuinfo; then
			skip "$name, refused" "the processor here has protection keys, too"
		else
			refused_here "$name"
			images_refused "$name"
		fi
		goes_there "$name"
		for victim in vdso threads posixtimers restart_block; do
			images_there "$name" $victim
		done
		;;
	*)
		comes_here "$name" vdso
		comes_here "$name" threads
		for victim in vdso threads fpu pipes posixtimers restart_block; do
			images_here "$name" $victim
		done
		;;
	esac
	vm_end "$name"
}

# All at once: each machine keeps one processor busy.
for name in $machines; do
	in_machine "$name" >"$TEST_TMP/$name.results" &
	runs="${runs:-} $!"
done
# shellcheck disable=SC2086 # words
wait ${runs:-}
for name in $machines; do
	cat "$TEST_TMP/$name.results"
	! grep -q "^not ok" "$TEST_TMP/$name.results" || failed=1
done
finish
