#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# timeout: 900
#
# Two ferries of different versions: they agree on what both know, or refuse before the freeze, in one sentence, and the
# program is none the worse for it. The other version is the real ferry behind tests/e2e/other-ferry, which changes what each
# end hears of the other. ONLY='glob' runs some cases only.
# shellcheck disable=SC2016,SC2015,SC2154 # expanded in the hosts; "complain" always fails
. "$(dirname "$0")/../hosts/lib.sh"

other=/opt/other/other-ferry
through=(--remote-ferry "$other" --transport=ssh)

# other_ferry CHANGE...: what b's ferry is, and is told.
other_ferry() {
	hosts_put "$dir" b "$top/tests/e2e/other-ferry" "$other" || return 1
	printf '%s\n' "$@" >"$(files_of b)/opt/other/changes"
	: >"$(files_of b)/opt/other/seen"
}

saw() { # PATTERN: of a whole line of what passed
	grep -qxE -- "$1" "$(files_of b)/opt/other/seen" || complain "nobody said '$1'"
}

saw_no() {
	! grep -qxE -- "$1" "$(files_of b)/opt/other/seen" || complain "somebody said '$1'"
}

# text [MIB]: a program with memory that can be compressed; sets pid.
text() {
	hosts_put "$dir" b "$BUILD/bench/bench-victim" /opt/bench-victim &&
		pid=$(start_bench a text "${1:-8}") || complain "the program does not start"
}

froze() {
	grep -q "stage freeze" "$(files_of a)/tmp/migrate.log"
}

goes() { # [OPTION...]: it moves, and is whole
	must_migrate a "$pid" "${through[@]}" -v4 -o /tmp/migrate.log "$@" && moved a "$pid" || return 1
	froze || complain "the log does not tell of a freeze" || return 1
	bench_report b "$pid"
}

# stays WORDS [OPTION...]: refused in a sentence with these words; the program was not stopped, and nobody is left at b.
stays() {
	MESSAGE_LINES=1 refused "$1" a "$pid" "${through[@]}" -v4 -o /tmp/migrate.log "${@:2}" || return 1
	! froze || complain "it was frozen before" || return 1
	wait_for 10 no_agent || complain "left at b: $(on b pgrep -a ferry)" || return 1
	at_home a "$pid" && bench_report a "$pid"
}

no_agent() {
	! on b pgrep -f 'ferry agent|other-ferry' >/dev/null
}

# ---- versions of the protocol -------------------------------------------------------------------

# The one knows of more, but of ours, too; in every mode, and what is new in its messages is passed over.
newer() { # WHO MODE [OPTION...]
	other_ferry "$1 5 4" "program $1 0.9" unknown "offers f8" "lane 9" && text || return 1
	goes --mode="$2" "${@:3}" && saw "source needs 0xfe" && saw "target verdict 0x6" && saw "target running" || return 1
	[ "$2" != postcopy ] || { saw "source lane d 9" && saw "target lane D 2" && saw "target lane B 2"; }
}

over_tls() {
	other_ferry "hello 5 4" "welcome 7 2" unknown && text || return 1
	through=(--remote-ferry "$other")
	goes --mode=postcopy || return 1
	grep -q '^it moves over TLS' "$TEST_TMP/migrate.out" || complain "not over TLS"
}

# Their versions and ours do not meet.
apart() { # WORDS CHANGE...
	other_ferry "${@:2}" && text && stays "$1 the protocol, but ferry install the same version on both" &&
		stays "$1" --mode=postcopy && saw_no "source needs.*" && saw_no "target verdict.*"
}

# And afterwards with its like.
then_with_its_like() {
	other_ferry "welcome 5 5" && text && stays "version 5" || return 1
	other_ferry && goes
}

no_ferry() {
	other_ferry "magic welcome herring" && text && stays "does not speak ferry's protocol"
}

# ---- what both know -----------------------------------------------------------------------------

# A codec that the target does not know is never used, by messages or by lanes. So slow a link that each pays.
one_codec() { # MODE
	other_ferry "knows 2" && text 16 || return 1
	on a tc qdisc replace dev eth0 root tbf rate 100mbit burst 128kb latency 50ms || return 1
	goes --mode="$1" --compress=auto && saw "source needs 0x2" && saw "target verdict 0x2" || return 1
	saw "source (lane-)?packed 1" && saw_no "source (lane-)?packed [^1]"
}

wanted_codec() {
	other_ferry "knows 2" && text && stays "--compress the ferry at ferry-b does not know it" --compress=zstd || return 1
	goes --compress=lz4 --mode=stop && saw "source packed 1" && saw_no "source packed [^1]"
}

# A ferry from before there were codecs.
no_codecs() {
	other_ferry "forget needs 23" && text && stays "--compress does not know it" --compress=lz4 || return 1
	goes --compress=auto --mode=postcopy && saw "target verdict" && saw_no "source (lane-)?packed.*"
}

# Lanes as they are now, of before there were packed pages, and of before they had a version.
lanes() { # VERSION ANSWER SEEN NOT-SEEN
	other_ferry "lane $1" && text && goes --mode=postcopy --compress=lz4 || return 1
	saw "target lane $2" && saw "source $3" && saw_no "source $4"
}

bad_lane() {
	other_ferry "lane-answer 9" && text && stays "a version that nobody offered" --mode=postcopy
}

# What an older ferry would not do is not believed done.
no_detach() {
	other_ferry "forget doors 5" && text && on b rm /opt/bench-victim || return 1
	stays "ferry-b has an older ferry --detach-files" --files=lazy --detach-files || return 1
	goes --files=lazy
}

begin
test_case "as they are" lanes 2 'D 2' 'lane-packed 1' 'lane-packed [^1]'
for mode in stop precopy postcopy; do
	test_case "newer destination, $mode" newer welcome $mode
	test_case "newer source, $mode" newer hello $mode
done
test_case "both newer, over TLS" over_tls
test_case "destination too new" apart "ferry 9.1 at ferry-b speaks version 5 of ferry-a version 4" "welcome 5 5" "program welcome 9.1"
test_case "destination too old" apart "ferry at ferry-b speaks versions 2 to 3 of" "welcome 3 2" "program welcome -"
test_case "source too new" apart "ferry 9.1 at ferry-a speaks versions 5 to 6 of ferry-b version 4" "hello 6 5" "program hello 9.1"
test_case "source too old" apart "ferry at ferry-a speaks version 3 of" "hello 3 3" "program hello -"
test_case "then with its like" then_with_its_like
test_case "no ferry" no_ferry
test_case "one codec, precopy" one_codec precopy
test_case "one codec, postcopy" one_codec postcopy
on a tc qdisc del dev eth0 root
test_case "the wanted codec" wanted_codec
test_case "no codecs" no_codecs
test_case "lanes without packed pages" lanes 1 'D 1' 'lane-pages' 'lane-packed.*'
test_case "lanes without a version" lanes 0 d 'lane-pages' 'lane-packed.*'
test_case "lanes with a version that cannot be" bad_lane
test_case "lazy files that cannot be let go" no_detach
