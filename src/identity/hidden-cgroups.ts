/**
 * Whether this kernel may report the root cgroup for every socket, whatever cgroup made it. Before linux 5.15, a socket has one
 * field for both its class of cgroup v1 and its cgroup of v2. Once root uses net_cls or net_prio, as Docker does on nodes with
 * both versions, the field holds no cgroup of v2 any more, and sock_cgroup_ptr() in include/linux/cgroup.h returns the root
 * (read, not tried; 5.15 has two fields, by "bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed mode").
 *
 * @param mountinfo the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
 * @param kernel as uname(2) has it, such as `5.10.0-28-cloud-amd64`.
 */
export function mayHideCgroups(mountinfo: string, kernel: string): boolean {
  const [, major = "0", minor = "0"] = /^(\d+)\.(\d+)/.exec(kernel) ?? [];
  if (Number(major) > 5 || (Number(major) === 5 && Number(minor) >= 15)) return false;
  return mountinfo.split("\n").some((line) => / - cgroup (?:.*[ ,])?net_(?:cls|prio)(?:,|$)/.test(line));
}
