#!/bin/sh
# Builds what a virtual machine or a container boots from, out of Debian's packages alone: a tree, and of it root.img (ext4), for a machine
# with a kernel, vmlinuz and initrd. Prints the directory that holds them. It is kept in the cache directory between runs, under a name that
# holds what it was made from; nobody writes into it (each machine writes to a layer of its own).
#
#   build-image.sh CACHE_DIRECTORY KIND SUITE [PACKAGE...]
#
# KIND is `vm`, or `container`, which has no kernel. SUITE is a suite of Debian (bookworm); the packages are those that the cell needs
# beside the ordinary ones.
set -eu

usage='usage: build-image.sh CACHE_DIRECTORY vm|container SUITE [PACKAGE...]'
cache=${1:?$usage}
kind=${2:?$usage}
suite=${3:?$usage}
shift 3
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2016 # apt's own placeholder
mirror=${IMDSPROXY_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  grep -E '/debian/?$' | head -n 1)}
# What a node has: systemd with logind, sshd, cron, iptables, and what setup calls. python3 and curl stand for users' programs.
packages=systemd,systemd-sysv,udev,dbus,dbus-user-session,libpam-systemd,libnss-systemd,iptables,nftables,conntrack,iproute2
packages=$packages,passwd,util-linux,procps,kmod,cron,openssh-server,curl,ca-certificates,python3,libcap2-bin,uidmap,e2fsprogs

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
fingerprint=$(cat "$0" "$here/agent.py" "$here/agent.service" | sha256sum | cut -c1-12)
more=$(printf '%s' "$*" | tr -c 'a-z0-9' '-')
image=$cache/$kind-$suite${more:+-$more}-$fingerprint
exec 9>"$cache/$kind-$suite.lock"
flock 9
if [ -d "$image" ]; then
  printf '%s\n' "$image"
  exit 0
fi
partial=$cache/$kind-$suite.partial
rm -rf "$cache/$kind-$suite${more:+-$more}"-???????????? "$partial"
mkdir "$partial"
log=$cache/$kind-$suite.log
tree=$partial/tree
failed() {
  echo "build-image: $1 failed; the last lines of $log:" >&2
  tail -n 5 "$log" >&2
  exit 1
}
# A suite that is younger than this machine's debootstrap is made as its newest is.
script=/usr/share/debootstrap/scripts/$suite
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
debootstrap --variant=minbase --include="$packages" "$suite" "$tree" ${mirror:+"$mirror"} "$script" >"$log" 2>&1 ||
  failed debootstrap

if [ "$kind" = vm ]; then
  # The kernel's postinst makes the initrd: only what is needed to reach the root file system, and to be talked to.
  mkdir -p "$tree/etc/initramfs-tools/conf.d"
  printf 'MODULES=list\nCOMPRESS=gzip\n' >"$tree/etc/initramfs-tools/conf.d/vm"
  printf 'virtio_pci\nvirtio_blk\nvirtio_console\next4\n' >"$tree/etc/initramfs-tools/modules"
  set -- initramfs-tools linux-image-cloud-amd64 "$@"
fi
if [ $# -gt 0 ]; then
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
  chmod 755 "$tree/usr/sbin/policy-rc.d"
  mount -t proc proc "$tree/proc"
  trap 'umount "$tree/proc" 2>/dev/null || true' EXIT
  # A mirror may be older than what the Release file of its suite allows (Valid-Until).
  # shellcheck disable=SC2016 # the inner shell's
  chroot "$tree" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc '
    apt-get update -qq -o Acquire::Check-Valid-Until=false
    apt-get install -qq -y --no-install-recommends "$@"' sh "$@" >>"$log" 2>&1 || failed "apt-get install"
  umount "$tree/proc"
  rm "$tree/usr/sbin/policy-rc.d"
fi

rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/doc "$tree"/usr/share/man
: >"$tree/etc/machine-id"
printf '/dev/vda / ext4 defaults 0 1\nLABEL=payload /opt/payload ext4 ro,nofail 0 0\n' >"$tree/etc/fstab"
mkdir -p "$tree/opt/payload"
echo node >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 node\n' >"$tree/etc/hosts"
# Three users. 5010 and 5011 have groups of their own.
for user in alice bob carol; do useradd --root "$tree" --create-home --shell /bin/bash "$user"; done
install -m 755 "$here/agent.py" "$tree/usr/local/lib/vm-agent.py"
install -m 644 "$here/agent.service" "$tree/etc/systemd/system/vm-agent.service"
mkdir -p "$tree/etc/systemd/system/sysinit.target.wants"
ln -s ../vm-agent.service "$tree/etc/systemd/system/sysinit.target.wants/vm-agent.service"
# What only costs time in an emulated machine without a network.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer man-db.timer e2scrub_reap.service \
  systemd-timesyncd.service systemd-networkd-wait-online.service dpkg-db-backup.timer; do
  ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done

if [ "$kind" = vm ]; then
  cp "$tree"/boot/vmlinuz-* "$partial/vmlinuz"
  cp "$tree"/boot/initrd.img-* "$partial/initrd"
fi
truncate -s 3G "$partial/root.img"
mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$partial/root.img" >>"$log" 2>&1 || failed mke2fs
rm -rf "$tree"
mv "$partial" "$image"
printf '%s\n' "$image"
