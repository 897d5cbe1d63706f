#!/bin/sh
# imdsproxy on SageMaker HyperPod (Slurm), for each of its hooks. Beside this file stand install.sh, the executable of a release
# (imdsproxy-linux-x64.gz) and its SHA256SUMS, and imdsproxy.yaml, a configuration with at least `role: ARN`. HyperPod copies the
# directory LifeCycleConfig.SourceS3Uri to every node and runs one script of it as root, once, when the node is made.
#
#   OnCreate         (base config): in on_create.sh, before the line that starts lifecycle_script.py, which configures SSSD and
#                    Slurm, and with them come users:            sh ./hyperpod.sh || exit 1
#   OnInitComplete   this file itself. The image's own initialisation is over: slurmd and sshd run, and IMDS has been open to
#                    users since the boot. Connections that they opened to it end as the rules come.
#   OnInitComplete   with run_extensions.sh of awslabs' Extensions: these files in a directory imdsproxy beside it, and before
#                    its `if` for add-users, which makes the users:
#                                    bash "$SCRIPT_DIR/imdsproxy/hyperpod.sh" || exit 1
#                    Not by its run_feature, which goes on where the file is missing.
#
# A node on which it fails does not come up: better than one that gives its instance role to every user.
# Sources: SageMaker developer guide, "Getting started with SageMaker HyperPod using the AWS CLI", options B and C;
# awslabs/awsome-distributed-training, 1.architectures/5.sagemaker-hyperpod, base-config and Extensions.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

# The role alone will do in place of a configuration: IMDSPROXY_ROLE_ARN=ARN sh ./hyperpod.sh
set --
if [ -n "${IMDSPROXY_ROLE_ARN-}" ]; then set -- --role-arn "$IMDSPROXY_ROLE_ARN"; fi
if [ -f "$here/imdsproxy.yaml" ]; then set -- --config "$here/imdsproxy.yaml" "$@"; fi
if [ $# -eq 0 ]; then
  echo "hyperpod.sh: there is no $here/imdsproxy.yaml: write one with \`role: ARN\`, or set IMDSPROXY_ROLE_ARN" >&2
  exit 1
fi

exec sh "$here/install.sh" --from "$here/" "$@"
