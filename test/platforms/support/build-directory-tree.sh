#!/bin/sh
# Builds the tree of a node with a directory (slapd, sssd) from the tree of the boot tests, and prints its path. Kept in the
# cache directory like that one.
#
#   build-directory-tree.sh CACHE_DIRECTORY BOOT_TREE
set -eu

cache=${1:?usage: build-directory-tree.sh CACHE_DIRECTORY BOOT_TREE}
boot=${2:?usage: build-directory-tree.sh CACHE_DIRECTORY BOOT_TREE}
packages='slapd ldap-utils sssd sssd-ldap libnss-sss'

mkdir -p "$cache"
tree=$cache/directory-$(basename "$boot")-$(sha256sum <"$0" | cut -c1-12)
exec 9>"$cache/directory.lock"
flock 9
if [ ! -d "$tree" ]; then
  partial=$cache/directory.partial
  rm -rf "$partial" "$cache"/directory-*-????????????
  cp -a "$boot" "$partial"
  # No package starts its service in here.
  printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d"
  chmod 755 "$partial/usr/sbin/policy-rc.d"
  mount -t proc proc "$partial/proc"
  trap 'umount "$partial/proc" 2>/dev/null || true' EXIT
  chroot "$partial" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc "
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends $packages" >"$cache/directory.log" 2>&1 || {
    echo "build-directory-tree: apt-get failed, the last lines of $cache/directory.log:" >&2
    tail -n 5 "$cache/directory.log" >&2
    exit 1
  }
  umount "$partial/proc"
  rm -r "$partial/usr/sbin/policy-rc.d" "$partial"/var/cache/apt/archives/*.deb "$partial"/var/lib/apt/lists/*
  # Each test starts what it needs.
  for unit in slapd sssd; do
    find "$partial/etc/systemd/system" "$partial"/etc/rc*.d -name "*$unit*" -type l -delete
  done
  mv "$partial" "$tree"
fi
printf '%s\n' "$tree"
