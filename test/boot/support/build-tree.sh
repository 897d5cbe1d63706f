#!/bin/sh
# Builds the file tree of a Debian node with systemd from Debian's packages and prints its path.
# The tree is kept in the cache directory between runs under a name that holds what it was made from;
# nobody writes into it (each machine boots from an overlay on top of it).
#
#   build-tree.sh CACHE_DIRECTORY
set -eu

suite=bookworm
# Where this machine itself gets Debian's packages; another system leaves it to debootstrap.
# shellcheck disable=SC2016 # apt's own placeholder
mirror=${IMDSPROXY_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  grep -E '/debian/?$' | head -n 1)}
# What a node of a cluster has: systemd with logind (lingering users start there), sshd, cron (its @reboot jobs run as
# users), iptables, and what setup calls. python3-minimal and curl stand for the users' programs.
# libfaketime gives a service a clock of its own.
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,libnss-systemd,iptables,iproute2,passwd,util-linux
packages=$packages,procps,cron,openssh-server,curl,ca-certificates,python3-minimal,libcap2-bin,libfaketime

cache=${1:?usage: build-tree.sh CACHE_DIRECTORY}
fingerprint=$(sha256sum <"$0" | cut -c1-12)

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
tree=$cache/boot-tree-$suite-$fingerprint
exec 9>"$cache/boot-tree.lock"
flock 9
if [ ! -d "$tree" ]; then
  rm -rf "$cache"/boot-tree-*-* "$cache"/boot-tree.partial
  # In a mount namespace of its own: what it mounts in the tree is not a change of the machine, which other tests watch.
  unshare --mount debootstrap --variant=minbase --include="$packages" "$suite" "$cache/boot-tree.partial" \
    ${mirror:+"$mirror"} >"$cache/boot-tree.log" 2>&1 || {
    echo "build-tree: debootstrap failed, its last lines:" >&2
    tail -n 5 "$cache/boot-tree.log" >&2
    exit 1
  }
  partial=$cache/boot-tree.partial
  rm -rf "$partial"/var/cache/apt/archives/*.deb "$partial"/var/lib/apt/lists/*
  # A container has no hardware and no mounts of its own to wait for; the machine's id is that of its first boot.
  : >"$partial/etc/machine-id"
  : >"$partial/etc/fstab"
  useradd --root "$partial" --create-home --shell /bin/bash alice
  useradd --root "$partial" --create-home --shell /bin/bash bob
  mv "$partial" "$tree"
fi
printf '%s\n' "$tree"
