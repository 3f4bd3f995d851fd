# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Virtual machines with other kernels, in pure emulation (no /dev/kvm needed). To be sourced by a
# test, after its lib.sh. A machine has busybox, bash, ferry, the victims and their libraries at the
# paths that they have here, in an initramfs; its kernel is one of Debian's cloud kernels, downloaded
# once to $FERRY_KERNELS (default /var/tmp/ferry-kernels) and never installed.
#
#   vm_kernel 6.1            downloads a kernel; sets kernel, or why it cannot
#   vm_boot NAME CPU         starts it with a processor model of qemu
#   vm_ready NAME            waits until it answers
#   vm NAME COMMAND          runs a shell command in it, prints its output; status of the command
#   vm_rsh NAME              prints what takes the place of ssh to it
#   vm_back                  prints what takes the place of ssh from a machine to here
#   vm_end NAME

FERRY_KERNELS=${FERRY_KERNELS:-/var/tmp/ferry-kernels}
vm_shell=$BUILD_DIR/tests/hosts/vm-shell
vm_token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

# The newest cloud kernel of a series, as far as the apt sources have one.
vm_package() {
	apt-cache depends --important "linux-image-cloud-amd64" "linux-image-$1-cloud-amd64" 2>/dev/null |
		sed -n "s/.*Depends: \(linux-image-$1[.0-9].*-cloud-amd64\)$/\1/p" | head -n 1
}

vm_kernel() {
	local package
	kernel=$(find "$FERRY_KERNELS" -maxdepth 1 -name "linux-image-$1[.]*" -type d 2>/dev/null | sort -V | tail -n 1)
	[ -z "$kernel" ] || return 0
	package=$(vm_package "$1")
	[ -n "$package" ] || {
		why="the apt sources have no cloud kernel $1"
		return 1
	}
	mkdir -p "$FERRY_KERNELS/new.$$"
	if ! (cd "$FERRY_KERNELS/new.$$" && timeout 120 apt-get -qq download -o APT::Sandbox::User=root "$package" &&
		dpkg-deb -x ./*.deb "$package") >"$TEST_TMP/kernel.log" 2>&1; then
		why="cannot download $package: $(tail -n 1 "$TEST_TMP/kernel.log")"
		rm -rf "$FERRY_KERNELS/new.$$"
		return 1
	fi
	kernel=$FERRY_KERNELS/$package
	mv "$FERRY_KERNELS/new.$$/$package" "$kernel" 2>/dev/null
	rm -rf "$FERRY_KERNELS/new.$$"
	[ -d "$kernel" ]
}

# Modules in the order in which they can be loaded; what is not there is built in.
vm_modules() { # ROOT
	local name file
	for name in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover \
		net_failover virtio_net unix_diag inet_diag tcp_diag udp_diag; do
		file=$(find "$kernel" -name "$name.ko*" | head -n 1)
		case $file in
		*.xz) xz -dc "$file" >"$1/modules/$name.ko" ;;
		*.ko) cp "$file" "$1/modules/" ;;
		*) continue ;;
		esac
		echo "insmod /modules/$name.ko || exit 1" >>"$1/rc"
	done
}

# vm_put ROOT FILE...: programs with their libraries, at the paths that they have here.
vm_put() {
	local root=$1 file real
	shift
	for file in "$@" $(for file; do ldd "$file" 2>/dev/null; done |
		sed -n 's/.*=> \(.*\) (.*/\1/p; s/^\t\(\/.*\) (.*/\1/p' | sort -u); do
		real=$(realpath "$file")
		mkdir -p "$root/$(dirname "$file")" "$root/$(dirname "$real")"
		[ -e "$root/$real" ] || cp "$real" "$root/$real"
		[ -e "$root/$file" ] || ln -s "$real" "$root/$file"
	done
}

vm_initramfs() { # NAME
	local root=$TEST_TMP/$1.root
	mkdir -p "$root"/{usr/{bin,sbin,lib,lib64},proc,sys,dev,tmp,root,etc,var/tmp,run,modules}
	ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root/"
	cp "$(command -v busybox)" "$root/usr/bin/busybox"
	cat >"$root/rc" <<-'END'
		mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs dev /dev || exit 1
		echo 4194304 >/proc/sys/kernel/pid_max # images from machines with more processes
		mkdir -p /dev/pts /dev/shm /var/lib
		mount -t devpts -o ptmxmode=0666 devpts /dev/pts
		mount -t tmpfs shm /dev/shm
		mv /tmp /tmp.was && mkdir /tmp && mount -t tmpfs tmp /tmp || exit 1
		cp -a /tmp.was/. /tmp && rm -rf /tmp.was # a source tree may be there
		chmod 1777 /tmp /dev/shm /var/tmp
		hostname vm
	END
	vm_modules "$root"
	echo 'ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up' >>"$root/rc"
	printf '#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexec %s serve 0.0.0.0 2222 %s "sh /rc"\n' \
		"$vm_shell" "$vm_token" >"$root/init"
	chmod 755 "$root/init"
	cp /etc/passwd /etc/group "$root/etc/"
	vm_put "$root" "$vm_shell" "$FERRY" /bin/bash "$BUILD_DIR/bench/bench-victim" \
		$(find "$VICTIMS" -maxdepth 1 -type f -executable)
	ln -sf "$(realpath "$FERRY")" "$root/usr/bin/ferry"
	mkdir -p "$root/$PWD/tests"
	cp -r tests/e2e tests/victims "$root/$PWD/tests/"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$TEST_TMP/$1.initramfs"
	rm -rf "$root"
}

vm_boot() { # NAME CPU
	local port
	vm_initramfs "$1"
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	echo "$port" >"$TEST_TMP/$1.port"
	qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -m 768 -cpu "$2" \
		-accel tcg -serial "file:$TEST_TMP/$1.console" \
		-kernel "$kernel"/boot/vmlinuz-* -initrd "$TEST_TMP/$1.initramfs" \
		-append "console=ttyS0 quiet panic=-1 mitigations=off" \
		-netdev "user,id=n0,restrict=off,hostfwd=tcp:127.0.0.1:$port-:2222" \
		-device virtio-net-pci,netdev=n0 </dev/null >"$TEST_TMP/$1.qemu" 2>&1 &
	echo $! >"$TEST_TMP/$1.pid"
	disown
	cleanup_fn vm_end "$1"
}

vm_rsh() {
	echo "$vm_shell run 127.0.0.1 $(cat "$TEST_TMP/$1.port") $vm_token"
}

# A server here, for as long as the test runs. Seen from a machine, 10.0.2.2 is our loopback.
vm_back() {
	echo "$vm_shell run 10.0.2.2 $vm_back_port $vm_token"
}

vm_listen() {
	vm_back_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	PATH=$(dirname "$FERRY"):$PATH "$vm_shell" serve 127.0.0.1 "$vm_back_port" "$vm_token" \
		</dev/null >/dev/null 2>"$TEST_TMP/back.err" &
	disown
	cleanup_fn kill $!
}

vm() {
	local name=$1 out
	shift
	# shellcheck disable=SC2046
	out=$(timeout "${VM_LIMIT:-120}" $(vm_rsh "$name") vm "{ $*; } 2>&1; echo \"status \$?\"" </dev/null)
	echo "$out" | sed '$d'
	[ "$(echo "$out" | tail -n 1)" = "status 0" ]
}

# It answers, or it is dead.
vm_settled() {
	vm "$1" true >/dev/null 2>&1 || ! alive "$(cat "$TEST_TMP/$1.pid")"
}

vm_ready() {
	wait_for 90 vm_settled "$1" && vm "$1" true >/dev/null 2>&1 && return 0
	why="the machine does not answer: $(tail -n 3 "$TEST_TMP/$1.qemu" "$TEST_TMP/$1.console" | tr '\r\n' '  ')"
	return 1
}

vm_end() {
	kill -KILL "$(cat "$TEST_TMP/$1.pid")" 2>/dev/null
	rm -f "$TEST_TMP/$1.initramfs"
}
