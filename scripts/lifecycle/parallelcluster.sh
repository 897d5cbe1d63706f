#!/bin/sh
# imdsproxy on AWS ParallelCluster 3: a custom action, which runs as root. Put this file beside a release's files in a bucket.
#
#   HeadNode:                     # the same below each of LoginNodes.Pools and of Scheduling.SlurmQueues
#     CustomActions:
#       OnNodeStart:              # before ParallelCluster configures the node, and before slurmd
#         Script: s3://BUCKET/imdsproxy/parallelcluster.sh
#         Args: [s3://BUCKET/imdsproxy/, --role-arn, "arn:aws:iam::123456789012:role/ROLE"]
#       OnNodeConfigured:         # head and login nodes: ParallelCluster's own firewall refuses IMDS to the proxy until then
#         Script: s3://BUCKET/imdsproxy/parallelcluster.sh
#         Args: [configured]
#
# The first argument of OnNodeStart is a release's directory as install.sh takes it, https:// too. The node's role must be
# allowed s3:GetObject there.
#
# A node on which it fails takes no jobs: the creation of the cluster fails with its head node, and another node is replaced.
# Sources: ParallelCluster user guide, "Custom bootstrap actions"; aws-parallelcluster-cookbook, custom_actions/fetch_and_run
# and imds/imds-access.sh, which the configuration of the node calls with --flush and then with its own list of users.
set -eu

from=${1:?parallelcluster.sh: the first argument must be the directory of a release, or the word configured}
shift

if [ "$from" = configured ]; then
  allow=/opt/parallelcluster/scripts/imds/imds-access.sh
  # A compute node has no such firewall, and has nothing to let the proxy through.
  if [ -f "$allow" ] && iptables -w 10 -S PARALLELCLUSTER_IMDS 2>/dev/null | grep -q -- '-j REJECT'; then
    bash "$allow" --allow imdsproxy
    # What the boot brings back was saved before this.
    rules=/etc/parallelcluster/sysconfig
    if [ -f "$rules/iptables.rules" ]; then iptables-save >"$rules/iptables.rules"; fi
    if [ -f "$rules/ip6tables.rules" ]; then ip6tables-save >"$rules/ip6tables.rules"; fi
  fi
  # Once more, with nothing to change: it tries a user, each exempt account and root.
  exec imdsproxy setup
fi

script=$(mktemp)
trap 'rm -f "$script"' EXIT
case $from in
s3://*) aws s3 cp --only-show-errors "${from%/}/install.sh" "$script" ;;
*) curl --fail --silent --show-error --location --retry 5 --connect-timeout 10 --output "$script" "${from%/}/install.sh" ;;
esac
sh "$script" --from "${from%/}/" "$@"
