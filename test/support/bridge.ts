/**
 * Shell commands for a simulated node: a bridge with one container behind it, as Docker makes them: a namespace `box`, a veth pair,
 * masquerading, forwarding.
 */
export const BRIDGE = `
set -eu
# sysfs shows the interfaces of the namespace that it was mounted in, and the simulated node has the machine's.
mount -t sysfs none /sys
ip link add docker0 type bridge
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
ip netns add box
ip link add veth0 type veth peer name eth0 netns box
ip link set veth0 master docker0 up
ip -n box link set lo up
ip -n box address add 172.17.0.2/16 dev eth0
ip -n box link set eth0 up
ip -n box route add default via 172.17.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
`;
