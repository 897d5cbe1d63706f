#!/bin/sh
# Downloads imdsproxy, checks it, and runs its setup. For a lifecycle script or user data; needs root, and curl or wget.
#
#   curl -fsSL https://EXAMPLE/install.sh | sh -s -- --from https://EXAMPLE/ --role-arn ARN
#
#   --from WHERE     a directory with the files of a release (a path, or a URL that ends in /): the file for this machine
#                    is taken from it and checked against its SHA256SUMS;
#                    or one file (a path or a URL, presigned ones too): give its --sha256
#                    A URL is https://, http:// or s3://; the last is fetched by the AWS CLI, with the node's own role.
#   --sha256 HEX     what the file must have, as sha256sum prints it
#   --public-key KEY the key by which the release must be signed: base64 in one line, as `make dist` prints it, or a PEM file by a
#                    path that begins with / or ./ . SHA256SUMS.sig beside SHA256SUMS must be by it. Needs openssl.
#                    An older release by the same key is taken, too: --sha256 as well pins one release.
#
# Everything else goes to `imdsproxy setup`; see its --help. IMDSPROXY_FROM, IMDSPROXY_SHA256 and IMDSPROXY_PUBLIC_KEY in the
# environment stand for the options: a presigned URL is a secret, and an argument can be read by every user of a node.
# Exit 0: the service runs and was verified. Anything else: one line says why not.
set -eu

from=${IMDSPROXY_FROM:-}
sha256=${IMDSPROXY_SHA256:-}
# Set and empty is a mistake, and not the wish for a release that nobody signed.
signed=${IMDSPROXY_PUBLIC_KEY+yes}
public_key=${IMDSPROXY_PUBLIC_KEY:-}
unset IMDSPROXY_FROM IMDSPROXY_SHA256 IMDSPROXY_PUBLIC_KEY
scratch=

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}

cleanup() {
  [ -z "$scratch" ] || rm -rf "$scratch"
}

# Where it is not secret: a presigned URL's signature stands behind the question mark.
shown() {
  printf '%s' "${1%%\?*}"
}

# The name of the release's file for this machine, without .gz.
file_for_this_machine() {
  system=$(uname -s)
  [ "$system" = Linux ] || fail "imdsproxy is for Linux; this is $system"
  machine=$(uname -m)
  case $machine in
  x86_64 | amd64)
    # The ordinary build uses AVX2; a processor without it needs the other.
    if grep -qw avx2 /proc/cpuinfo; then echo imdsproxy-linux-x64; else echo imdsproxy-linux-x64-baseline; fi
    ;;
  aarch64 | arm64) echo imdsproxy-linux-arm64 ;;
  *) fail "there is no imdsproxy for $machine: only for x86_64 and aarch64" ;;
  esac
}

# download URL FILE. The URL goes in on standard input, so that no other user sees it among the arguments.
download() {
  case $1 in
  *[\"\\]* | *'
'*) fail "the URL $(shown "$1") has a quote, a backslash or a line break in it" ;;
  esac
  if command -v curl >/dev/null 2>&1; then
    # A redirect must not lead from https to http.
    case $1 in https:*) schemes='=https' ;; *) schemes='=http,https' ;; esac
    printf 'url = "%s"\n' "$1" |
      curl --proto-redir "$schemes" --fail --silent --show-error --location --retry 5 --retry-delay 2 --connect-timeout 10 --max-time 600 \
        --output "$2" --config - || fail "cannot download $(shown "$1") (curl ended with $?)"
  elif command -v wget >/dev/null 2>&1; then
    printf '%s\n' "$1" |
      wget --quiet --tries=5 --timeout=60 --output-document="$2" --input-file=- ||
      fail "cannot download $(shown "$1") (wget ended with $?)"
  else
    fail "needs curl or wget to download $(shown "$1")"
  fi
}

# fetch WHERE FILE, WHERE being a URL or a path.
fetch() {
  case $1 in
  http://* | https://*) download "$1" "$2" ;;
  s3://*)
    command -v aws >/dev/null 2>&1 || fail "needs the AWS CLI (aws) to download $1"
    aws s3 cp --only-show-errors "$1" "$2" || fail "cannot download $1 (aws ended with $?)"
    ;;
  *)
    [ -f "$1" ] || fail "there is no file $1"
    cp "$1" "$2" || fail "cannot copy $1: is the disk full?"
    ;;
  esac
}

sha256_of() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum <"$1" | cut -d ' ' -f 1
  elif command -v openssl >/dev/null 2>&1; then
    openssl dgst -sha256 -r <"$1" | cut -d ' ' -f 1
  else
    fail "needs sha256sum or openssl to check what was downloaded"
  fi
}

# check_signature DIRECTORY: ends the script where SHA256SUMS in the scratch directory is not signed by the public key.
check_signature() {
  command -v openssl >/dev/null 2>&1 || fail "needs openssl to check the signature of $(shown "$1")SHA256SUMS"
  case $public_key in
  # Only so is it a file: the base64 of a key is also a relative path, which others may have made where this runs.
  /* | ./* | ../*)
    [ -f "$public_key" ] || fail "there is no file $public_key"
    cp "$public_key" "$scratch/key.pem" || fail "cannot read the public key $public_key"
    ;;
  *[!A-Za-z0-9+/=]*) fail "--public-key is no base64; a file's path must begin with / or ./" ;;
  *)
    # PEM has lines of 64 (RFC 7468, 2).
    {
      echo '-----BEGIN PUBLIC KEY-----'
      printf '%s\n' "$public_key" | fold -w 64
      echo '-----END PUBLIC KEY-----'
    } >"$scratch/key.pem"
    ;;
  esac
  openssl pkey -pubin -in "$scratch/key.pem" -noout >/dev/null 2>&1 ||
    fail "--public-key is no public key that openssl can read"
  fetch "$1SHA256SUMS.sig" "$scratch/SHA256SUMS.sig"
  openssl dgst -sha256 -verify "$scratch/key.pem" -signature "$scratch/SHA256SUMS.sig" "$scratch/SHA256SUMS" >/dev/null 2>&1 ||
    fail "$(shown "$1")SHA256SUMS is not signed by the key of --public-key: nothing was installed"
}

main() {
  while [ $# -gt 0 ]; do
    case $1 in
    --from | --sha256 | --public-key)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in
      --from) from=$2 ;;
      --sha256) sha256=$2 ;;
      --public-key) public_key=$2 signed=yes ;;
      esac
      shift 2
      ;;
    --from=*) from=${1#--from=} && shift ;;
    --sha256=*) sha256=${1#--sha256=} && shift ;;
    --public-key=*) public_key=${1#--public-key=} signed=yes && shift ;;
    --)
      shift
      break
      ;;
    *) break ;;
    esac
  done
  # Behind an option of setup they would be setup's, which refuses them: too late, since it is the program that they are about.
  for word in "$@"; do
    case $word in
    --from | --from=* | --sha256 | --sha256=* | --public-key | --public-key=*)
      fail "${word%%=*} must stand before the options of setup"
      ;;
    esac
  done
  [ -n "$from" ] || fail "where from? --from DIRECTORY, --from URL/ or --from FILE --sha256 HEX"
  [ -z "$signed" ] || [ -n "$public_key" ] || fail "--public-key is empty: give the key, or leave the option out"
  [ "$(id -u)" = 0 ] || fail "not running as root: run it with sudo"

  # Beside the place where it will be: /tmp may be mounted noexec, and others may write there.
  mkdir -p /usr/local
  # What a power cut left behind; another install.sh may be at work in one that is younger.
  find /usr/local -maxdepth 1 -name '.imdsproxy-install.*' -mmin +60 -exec rm -rf {} +
  scratch=$(mktemp -d /usr/local/.imdsproxy-install.XXXXXX) || fail "cannot write to /usr/local"
  trap cleanup EXIT
  trap 'exit 1' HUP INT TERM

  case $from in
  */) directory=$from ;;
  *) if [ -d "$from" ]; then directory=$from/; else directory=; fi ;;
  esac
  case $from in
  http://*) [ -n "$sha256$signed" ] ||
    fail "whoever is on the way could change what comes over http: use https, or give --sha256 or --public-key" ;;
  esac
  [ -z "$signed" ] || [ -n "$directory" ] ||
    fail "the signature is over SHA256SUMS: --public-key needs --from DIRECTORY or --from URL/"
  if [ -n "$directory" ]; then
    name=$(file_for_this_machine)
    fetch "${directory}SHA256SUMS" "$scratch/SHA256SUMS"
    [ -z "$signed" ] || check_signature "$directory"
    # The compressed file is a third of the size.
    if command -v gzip >/dev/null 2>&1 && grep -q "  $name\.gz\$" "$scratch/SHA256SUMS"; then name=$name.gz; fi
    listed=$(sed -n "s/^\([0-9a-f]\{64\}\)  $name\$/\1/p" "$scratch/SHA256SUMS")
    [ -n "$listed" ] || fail "$(shown "$directory")SHA256SUMS does not list $name"
    sha256=${sha256:-$listed}
    from=$directory$name
  fi
  case $sha256 in
  '') fail "give the SHA-256 of $(shown "$from") with --sha256 HEX" ;;
  *[!0-9a-fA-F]*) fail "--sha256 must be 64 hexadecimal digits" ;;
  esac
  [ ${#sha256} -eq 64 ] || fail "--sha256 must be 64 hexadecimal digits"
  sha256=$(printf '%s' "$sha256" | tr A-F a-f)

  fetch "$from" "$scratch/download"
  found=$(sha256_of "$scratch/download")
  # With a key, --sha256 alone is not enough: the file must also be the one that was signed.
  [ -z "$signed" ] || [ "$found" = "$listed" ] ||
    fail "$(shown "$from") has the SHA-256 $found, and SHA256SUMS has $listed: nothing was installed"
  [ "$found" = "$sha256" ] || fail "$(shown "$from") has the SHA-256 $found, not $sha256: nothing was installed"

  # A gzip file begins with 1f 8b (RFC 1952).
  if [ "$(od -An -tx1 -N2 "$scratch/download" | tr -d ' \n')" = 1f8b ]; then
    gzip -dc <"$scratch/download" >"$scratch/imdsproxy" || fail "cannot unpack $(shown "$from"): is the disk full?"
    rm -f "$scratch/download"
  else
    mv "$scratch/download" "$scratch/imdsproxy"
  fi
  chmod 755 "$scratch" "$scratch/imdsproxy"
  # The dynamic loader says here what is missing: another architecture, or a C library before 2.17.
  version=$("$scratch/imdsproxy" --version 2>&1) || fail "the executable does not run here: $version"
  printf 'install.sh: %s\n' "$version"
  "$scratch/imdsproxy" setup "$@"
}

# A script that was cut off in the middle of its download has not come this far, and has done nothing.
main "$@"
