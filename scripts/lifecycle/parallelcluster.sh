#!/bin/sh
# imdsproxy on AWS ParallelCluster 3: a custom action of OnNodeStart, which runs as root on each node before Slurm starts.
#
#   HeadNode:                     # and the same below each of Scheduling.SlurmQueues
#     Imds:
#       Secured: false            # head node only: else ParallelCluster's own firewall refuses IMDS to the proxy as well
#     CustomActions:
#       OnNodeStart:
#         Script: s3://BUCKET/imdsproxy/parallelcluster.sh
#         Args:
#           - https://BUCKET.s3.us-west-2.amazonaws.com/imdsproxy/      # a release's directory, as install.sh takes it
#           - --role-arn
#           - arn:aws:iam::123456789012:role/ROLE
#
# The first argument may also be s3://BUCKET/PREFIX/: then the node's AWS CLI fetches the files with the instance role.
# A node on which it fails is replaced by ParallelCluster, and takes no jobs.
set -eu

[ $# -ge 1 ] || { echo "parallelcluster.sh: the first argument must say where the release is" >&2; exit 1; }
from=$1
shift

scratch=$(mktemp -d /usr/local/.imdsproxy-lifecycle.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

case $from in
s3://*)
  aws s3 cp --recursive --only-show-errors --exclude '*' --include install.sh --include SHA256SUMS \
    --include 'imdsproxy-linux-*.gz' "${from%/}/" "$scratch/"
  from=$scratch/
  ;;
*)
  curl --fail --silent --show-error --location --retry 5 --connect-timeout 10 --output "$scratch/install.sh" \
    "${from%/}/install.sh"
  ;;
esac
sh "$scratch/install.sh" --from "${from%/}/" "$@"
