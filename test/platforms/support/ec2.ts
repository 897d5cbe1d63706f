/**
 * What makes a container an instance of EC2 to systemd, besides the kernel's command line: 169.254.169.254 is another machine's, which
 * is reached by the first interface. That other machine is a network namespace at the other end of a veth pair.
 */

/** Files of the node, by path. @param standIn the command that runs stand-in.ts. */
export const ec2Files = (standIn: string): Readonly<Record<string, string>> => ({
  // systemd's own file, which systemd-imdsd writes, is for interfaces of hardware alone, and has an address by DHCP.
  "etc/systemd/network/85-imds-early.network.d/veth.conf": `[Match]
Name=eth0
Kind=
Kind=veth
[Network]
DHCP=no
IPv6AcceptRA=no
Address=10.0.2.15/24
Gateway=10.0.2.1
Address=fd00:2::15/64
Gateway=fd00:2::1
`,
  "etc/systemd/system/cloud.service": `[Unit]
Description=The cloud's side of the network
DefaultDependencies=no
Wants=network-pre.target systemd-networkd.service
Before=network-pre.target systemd-networkd.service
After=systemd-remount-fs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip netns add cloud; ip link add eth0 type veth peer name up0 netns cloud; ip -n cloud link set lo up; \\
 ip -n cloud link set up0 up; ip -n cloud addr add 10.0.2.1/24 dev up0; ip -n cloud addr add 169.254.169.254/32 dev up0; \\
 ip -n cloud addr add fd00:2::1/64 dev up0 nodad; ip -n cloud addr add fd00:ec2::254/128 dev up0 nodad'
[Install]
WantedBy=sysinit.target
`,
  "etc/systemd/system/metadata.service": `[Unit]
Description=The stand-in for EC2's metadata service
DefaultDependencies=no
Requires=cloud.service
After=cloud.service
[Service]
ExecStart=/sbin/ip netns exec cloud ${standIn} imds 169.254.169.254:80
Restart=always
RestartSec=500ms
[Install]
WantedBy=sysinit.target
`,
});
