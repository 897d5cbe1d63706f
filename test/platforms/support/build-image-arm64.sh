#!/bin/sh
# Builds what an arm64 machine boots from, as build-image.sh does for amd64, without running a program of arm64: the amd64 image of the
# same suite, with what is configured in it (accounts, units, alternatives), in which the files of each amd64 package are replaced by those of
# the same package of arm64. Prints the directory that holds root.img, vmlinuz and initrd.
#
#   build-image-arm64.sh CACHE_DIRECTORY SUITE [PACKAGE...]
#
# It mounts the amd64 image, so it must run in a mount namespace of its own (`make test-platforms`).
set -eu

usage='usage: build-image-arm64.sh CACHE_DIRECTORY SUITE [PACKAGE...]'
cache=${1:?$usage}
suite=${2:?$usage}
here=$(cd "$(dirname "$0")" && pwd)
shift 2
amd64=$(sh "$here/build-image.sh" "$cache" vm "$suite" "$@")
cache=$(cd "$cache" && pwd)
fingerprint=$({ cat "$0" && basename "$amd64"; } | sha256sum | cut -c1-12)
image=$cache/vm-$suite-arm64-$fingerprint
exec 9>"$cache/vm-$suite-arm64.lock"
flock 9
if [ -d "$image" ]; then
  printf '%s\n' "$image"
  exit 0
fi
partial=$cache/vm-$suite-arm64.partial
log=$cache/vm-$suite-arm64.log
tree=$partial/tree
rm -rf "$cache/vm-$suite-arm64"-???????????? "$partial"
mkdir -p "$tree" "$partial/debs" "$partial/mounted"
: >"$log"
failed() {
  echo "build-image-arm64: $1 failed; the last lines of $log:" >&2
  tail -n 5 "$log" >&2
  exit 1
}

mount -o loop,ro "$amd64/root.img" "$partial/mounted"
trap 'umount "$partial/mounted" 2>/dev/null || true' EXIT
cp -a "$partial/mounted/." "$tree"
umount "$partial/mounted"

# An apt of its own, which knows of arm64 alone and of no package that is installed.
# shellcheck disable=SC2016 # apt's own placeholder
mirror=${IMDSPROXY_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  grep -E '/debian/?$' | head -n 1)}
: "${mirror:?this apt names no mirror: set IMDSPROXY_DEBIAN_MIRROR}"
apt=$partial/apt
mkdir -p "$apt/etc/apt/apt.conf.d" "$apt/etc/apt/preferences.d" "$apt/var/lib/apt/lists/partial" \
  "$apt/var/cache/apt/archives/partial" "$apt/var/lib/dpkg"
: >"$apt/var/lib/dpkg/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/etc/apt/sources.list"
apt_get() {
  apt-get -o Dir="$apt" -o Dir::State::status="$apt/var/lib/dpkg/status" -o APT::Architecture=arm64 \
    -o APT::Architectures::=arm64 -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "$@" >>"$log" 2>&1 ||
    failed "apt-get $1"
}
apt_get update

# The packages of amd64, and the files of each that are not configuration.
packages=$(awk '/^Package: / { name = $2 } /^Architecture: amd64/ { print name }' "$tree/var/lib/dpkg/status")
for package in $packages; do
  cat "$tree/var/lib/dpkg/info/$package.list" "$tree/var/lib/dpkg/info/$package:amd64.list" 2>/dev/null || true
done | grep -v '^/etc/' | while IFS= read -r path; do
  [ -d "$tree$path" ] || printf '%s\n' "$tree$path"
done | xargs -d '\n' rm -f
rm -rf "$tree"/usr/lib/modules/*-amd64 "$tree"/boot/*-amd64 "$tree/etc/ld.so.cache"
cd "$partial/debs"
# shellcheck disable=SC2046,SC2086 # one word a package
apt_get download busybox-static $(printf '%s\n' $packages | sed 's/^\(linux-image-.*\)amd64$/\1arm64/')
for deb in *.deb; do
  into=$tree
  case $deb in busybox-static_*) into=$partial/busybox ;; esac
  mkdir -p "$into"
  dpkg-deb --fsys-tarfile "$deb" | tar -xp -C "$into" --keep-directory-symlink --exclude=./etc --exclude=./usr/share/doc \
    --exclude=./usr/share/man || failed "$deb"
done
cd "$here"

# The initrd: busybox, and the modules that are needed to reach the root file system, to be talked to and to know the time.
kernel=$(basename "$tree"/lib/modules/*)
depmod -b "$tree" "$kernel" >>"$log" 2>&1 || failed depmod
initrd=$partial/initrd.d
mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/dev" "$initrd/proc" "$initrd/sys" "$initrd/run" "$initrd/root"
cp "$partial"/busybox/*bin/busybox "$initrd/bin/busybox" 2>/dev/null || cp "$partial"/busybox/usr/bin/busybox "$initrd/bin/busybox"
for module in virtio_pci virtio_blk virtio_console ext4 rtc-pl031; do
  modprobe -d "$tree" -S "$kernel" --show-depends "$module"
done 2>>"$log" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$partial/modules"
while IFS= read -r file; do
  cp "$file" "$initrd/modules/"
  basename "$file" >>"$initrd/modules/order"
done <"$partial/modules"
cat >"$initrd/init" <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs none /dev
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t tmpfs -o mode=755 none /run
$b mkdir -p /dev/pts
$b mount -t devpts -o gid=5,mode=620 none /dev/pts
while read -r module; do $b insmod "/modules/$module"; done </modules/order
init=/sbin/init
for word in $($b cat /proc/cmdline); do
  case $word in init=*) init=${word#init=} ;; esac
done
until [ -b /dev/vda ]; do $b sleep 0.1; done
$b mount -t ext4 /dev/vda /root
for one in dev proc sys run; do $b mount -o move "/$one" "/root/$one"; done
exec $b switch_root /root "$init" "$@"
END
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$partial/initrd" 2>>"$log" || failed initrd
cp "$tree"/boot/vmlinuz-* "$partial/vmlinuz"

truncate -s 3G "$partial/root.img"
mke2fs -q -t ext4 -O ^has_journal -d "$tree" "$partial/root.img" >>"$log" 2>&1 || failed mke2fs
rm -rf "$tree" "$initrd" "$apt" "$partial/debs" "$partial/busybox" "$partial/mounted" "$partial/modules"
mv "$partial" "$image"
printf '%s\n' "$image"
