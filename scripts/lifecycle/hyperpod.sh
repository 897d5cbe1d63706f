#!/bin/sh
# imdsproxy on SageMaker HyperPod (Slurm). Put this file, install.sh, the executable of a release (imdsproxy-linux-x64.gz)
# and its SHA256SUMS into the base-config directory whose address is the cluster's LifeCycleConfig.SourceS3Uri. HyperPod
# copies that directory to every node and runs OnCreate (on_create.sh) in it, as root, once.
#
# In on_create.sh, before the line that starts lifecycle_script.py (it configures SSSD and Slurm, and with them come users):
#
#   IMDSPROXY_ROLE_ARN=arn:aws:iam::123456789012:role/ROLE sh ./hyperpod.sh || exit 1
#
# A node on which it fails does not come up: better than one that gives its instance role to every user.
set -eu

role=${IMDSPROXY_ROLE_ARN:?hyperpod.sh: set IMDSPROXY_ROLE_ARN to the role that users shall get}
here=$(cd "$(dirname "$0")" && pwd)

# A configuration beside this file has the rules for users and groups; without one, everybody gets the role.
set -- --role-arn "$role"
if [ -f "$here/imdsproxy.yaml" ]; then set -- --config "$here/imdsproxy.yaml" "$@"; fi

exec sh "$here/install.sh" --from "$here/" "$@"
