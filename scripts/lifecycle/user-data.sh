#!/bin/sh
# imdsproxy on plain EC2: a script as user data, which cloud-init runs as root at the end of the first boot. Put in your own
# four values. Where it fails, the instance is switched off, and with the shutdown behaviour `terminate` it is gone: one that
# stayed would give its instance role to every user.
#
# sshd runs before it does. Where users can log in from the first moment (keys in the image), take user-data.yaml, which closes
# IMDS to them before that; or build the image with imdsproxy in it (`imdsproxy setup` on the builder).
set -eu

RELEASE=https://EXAMPLE/imdsproxy/
INSTALL_SH_SHA256=0000000000000000000000000000000000000000000000000000000000000000
ROLE_ARN=arn:aws:iam::123456789012:role/ROLE
REGION=us-west-2

ended() {
  [ "$1" -eq 0 ] || poweroff
  rm -f "$script"
}
script=
trap 'ended $?' EXIT
script=$(mktemp)
curl --fail --silent --show-error --location --retry 5 --connect-timeout 10 --output "$script" "${RELEASE}install.sh"
echo "$INSTALL_SH_SHA256  $script" | sha256sum --check --quiet
sh "$script" --from "$RELEASE" --role-arn "$ROLE_ARN" --region "$REGION"
