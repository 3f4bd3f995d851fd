#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Becomes pid 1 of one host; started by hosts.sh in fresh namespaces and not meant to be run by
# hand.  Usage: host-init.sh DIR a|b FERRY [PATH-TO-LACK]...
#
# Builds the host's file tree on a tmpfs at DIR/HOST.root, makes it the root, and ends as a
# sleeping process that ignores SIGCHLD: the kernel reaps the orphans of such a pid 1 by itself.
set -eu

dir=$1 host=$2 ferry=$3
shift 3
root=$dir/$host.root
other=$([ "$host" = a ] && echo b || echo a)

# The old /proc still counts in the machine's PIDs. Bash itself opens the file, so "self" is us.
read -r pid _ </proc/self/stat
echo "$pid" >"$dir/$host.born.new"
mv "$dir/$host.born.new" "$dir/$host.born"

make_tree() {
	local link
	mount -t tmpfs -o mode=755 "ferry-$host" "$root"
	cd "$root"
	mkdir -p dev etc home/worker home/alice opt proc root run/lock run/sshd srv/work sys tmp usr \
		var/lib var/log var/cache var/spool var/tmp old
	chmod 1777 tmp var/tmp srv/work
	chmod 700 root
	ln -s /run var/run
	ln -s /run/lock var/lock
	for link in /bin /sbin /lib /lib32 /lib64 /libx32; do
		[ -L $link ] && cp -P $link .$link
	done
	[ -L /bin ] || for link in /bin /sbin /lib /lib64; do
		mkdir -p ".$link" && mount --bind $link ".$link"
	done
}

# /usr is the machine's own. Where the host must lack something it is an overlay instead.
make_usr() {
	local path
	if [ $# = 0 ]; then
		mount --bind /usr usr
		mount -o remount,bind,ro usr
	else
		mkdir -p run/usr/upper run/usr/work
		mount -t overlay -o "lowerdir=/usr,upperdir=$root/run/usr/upper,workdir=$root/run/usr/work" \
			usr usr
		for path; do
			rm -rf ".$path"
		done
	fi
	mount -t tmpfs -o mode=755 "ferry-$host-local" usr/local
	mkdir -p usr/local/bin usr/local/lib usr/local/sbin usr/local/share
	[ -z "$ferry" ] || install -m 755 "$ferry" usr/local/bin/ferry
}

make_devices() {
	local node
	for node in null zero full random urandom tty fuse userfaultfd; do
		[ -c /dev/$node ] && cp -a /dev/$node dev/
	done
	mkdir -p dev/pts dev/shm dev/net
	chmod 1777 dev/shm
	[ -c /dev/net/tun ] && cp -a /dev/net/tun dev/net/
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ln -s fd/0 dev/stdin
	ln -s fd/1 dev/stdout
	ln -s fd/2 dev/stderr
}

# Only what programs of the distribution need; nothing of the machine's own keys or names.
make_etc() {
	local name
	for name in alternatives bash.bashrc debian_version host.conf ld.so.cache ld.so.conf \
		ld.so.conf.d localtime login.defs mime.types nginx nsswitch.conf os-release perl profile \
		protocols python3 python3.11 services shells ssl terminfo passwd group; do
		[ -e /etc/$name ] && cp -a /etc/$name etc/
	done
	echo "ferry-$host" >etc/hostname
	tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
	printf '127.0.0.1\tlocalhost\n10.88.0.1\tferry-a\n10.88.0.2\tferry-b\n' >etc/hosts
	add_user worker 2001
	if [ "$host" = a ]; then
		add_user alice 2002
		add_user solo 2003
	else
		add_user alice 3002
	fi
	sed 's/^\([^:]*\):.*/\1:*:19000:0:99999:7:::/' etc/passwd >etc/shadow
	chmod 600 etc/shadow
}

add_user() {
	echo "$1:x:$2:$2::/home/$1:/bin/bash" >>etc/passwd
	echo "$1:x:$2:" >>etc/group
	mkdir -p "home/$1"
	chown "$2:$2" "home/$1"
}

make_sshd() {
	mkdir -p etc/ssh
	[ -e /etc/ssh/moduli ] && cp /etc/ssh/moduli etc/ssh/
	install -m 600 "$dir/keys/host-$host" etc/ssh/ssh_host_ed25519_key
	cat >etc/ssh/sshd_config <<-END
		ListenAddress $([ "$host" = a ] && echo 10.88.0.1 || echo 10.88.0.2)
		HostKey /etc/ssh/ssh_host_ed25519_key
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		KbdInteractiveAuthentication no
		UsePAM no
		UseDNS no
		MaxStartups 100
		MaxSessions 100
		AcceptEnv LANG LC_*
	END
	: >etc/ssh/ssh_config
	make_ssh_home root 0
	make_ssh_home home/worker 2001
}

make_ssh_home() {
	mkdir -p "$1/.ssh"
	chmod 700 "$1/.ssh"
	install -m 600 "$dir/keys/user-$host" "$1/.ssh/id_ed25519"
	install -m 600 "$dir/keys/user-$other.pub" "$1/.ssh/authorized_keys"
	cat "$dir/keys/user-$host.pub" >>"$1/.ssh/authorized_keys"
	for name in a b; do
		read -r type key _ <"$dir/keys/host-$name.pub"
		echo "ferry-$name $type $key"
	done >"$1/.ssh/known_hosts"
	printf 'BatchMode yes\nConnectTimeout 10\nStrictHostKeyChecking yes\n' >"$1/.ssh/config"
	chown -R "$2:$2" "$1/.ssh"
}

mount --make-rprivate /
make_tree
make_usr "$@"
make_devices
make_etc
make_sshd
hostname "ferry-$host"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
# Two machines never have the same boot id, even if here they have the same kernel.
cat /proc/sys/kernel/random/uuid >run/boot_id
mount --bind run/boot_id proc/sys/kernel/random/boot_id
exec 3>"$dir/$host.ready"
pivot_root . old
umount -l /old
rmdir /old
[ "$host" = a ] && last=2000 || last=17000
echo "$last" >/proc/sys/kernel/ns_last_pid
trap '' CHLD
exec 3>&-
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin sleep infinity
