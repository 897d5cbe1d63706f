#!/bin/sh
# Installs the Debian packages that the tests need; with --demo, only what `imdsproxy demo` needs; with --platforms, what
# `make test-platforms` needs; with --firewalls, what `make test-firewalls` needs beside the tests' own.
# What is there already is left alone; a second run does nothing.
set -eu

demo_packages='iptables iproute2'
test_packages="$demo_packages awscli python3-boto3 curl procps systemd-container debootstrap dbus shellcheck nginx-light wrk conntrack uidmap podman crun slirp4netns passt nftables gcc libc6-dev prometheus openssh-client openssh-server dropbear-bin sudo zsh fish openssl mandoc groff-base"
firewall_packages='ufw firewalld dbus docker.io busybox-static'
platform_packages='qemu-system-x86 qemu-system-arm qemu-utils debootstrap cpio kmod e2fsprogs gcc libc6-dev'

say() { echo "install-test-packages: $*" >&2; }

case "${1:-}" in
  --demo) wanted=$demo_packages ;;
  --platforms) wanted=$platform_packages ;;
  --firewalls) wanted=$firewall_packages ;;
  '') wanted=$test_packages ;;
  *) say "does not take $1; it takes --platforms, --firewalls, --demo or nothing"; exit 2 ;;
esac

if ! command -v apt-get >/dev/null 2>&1; then
  # Another distribution: names differ, so look for the programs.
  for program in iptables ip6tables iptables-restore ip unshare nsenter setpriv; do
    command -v "$program" >/dev/null 2>&1 || {
      say "there is no $program here and no apt-get to install it with"
      say "install iptables, iproute (ip) and util-linux with this system's package manager"
      exit 1
    }
  done
  [ "$wanted" = "$demo_packages" ] || say "no apt-get: the tests' further packages are yours to install: $wanted"
  exit 0
fi

missing=
for package in $wanted; do
  case "$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)" in
    ii*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null 2>&1; then
    say "installing$missing needs root; asking sudo"
    exec sudo sh "$0" "$@"
  fi
  say "needs root to install$missing"
  exit 1
fi

say "installing$missing"
export DEBIAN_FRONTEND=noninteractive
# nginx is for the benchmark, which starts its own: the package must not start a server on this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' INT TERM HUP
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

# A mirror may drop a connection, and another apt-get, such as apt-daily's, may have the lock for a while.
apt_get() { apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 "$@"; }
# shellcheck disable=SC2086 # a list of names
install() { apt_get install -y --no-install-recommends $missing >/dev/null; }
# shellcheck disable=SC2086
known() { [ "$(apt-cache policy $missing 2>/dev/null | grep -c '^ *Candidate: [^(]')" -eq "$(echo $missing | wc -w)" ]; }

if known && install; then exit 0; fi
say "refreshing the package lists"
apt_get update
install
