#!/bin/sh
# Builds the servers in Go that `make bench-go` compares with, in the directory $1. Needs Go and its module proxy.
set -eu

mkdir -p "$1"
directory=$(cd "$1" && pwd)
command -v go >/dev/null 2>&1 || {
  echo "install-go-servers: there is no go here; install Debian's golang-go, version 1.23 or later" >&2
  exit 1
}

for module in \
  github.com/aws/rolesanywhere-credential-helper@v1.4.0 \
  github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock@v1.13.0; do
  GOBIN="$directory" go install "$module"
done
go build -o "$directory/hello" "$(dirname "$0")/go/hello.go"
