#!/bin/sh
# imdsproxy on plain EC2: user data, which cloud-init runs as root at the first boot. Put in your own four values.
#
# Users who can log in from the first moment (keys in the image) come before user data does: there, build the image with
# imdsproxy in it (`imdsproxy setup` on the builder), and its rules are in place before anybody comes in.
set -eu

RELEASE=https://EXAMPLE/imdsproxy/
INSTALL_SH_SHA256=0000000000000000000000000000000000000000000000000000000000000000
ROLE_ARN=arn:aws:iam::123456789012:role/ROLE
REGION=us-west-2

script=$(mktemp)
trap 'rm -f "$script"' EXIT
curl --fail --silent --show-error --location --retry 5 --connect-timeout 10 --output "$script" "${RELEASE}install.sh"
echo "$INSTALL_SH_SHA256  $script" | sha256sum --check --quiet
sh "$script" --from "$RELEASE" --role-arn "$ROLE_ARN" --region "$REGION"
