import { bridgedContainers } from "./checks/bridged-containers.ts";
import { cgroups } from "./checks/cgroups.ts";
import { chainsAbove } from "./checks/chains-above.ts";
import { clock } from "./checks/clock.ts";
import { configuration } from "./checks/configuration.ts";
import { directAccess } from "./checks/direct-access.ts";
import { ecsEndpoint } from "./checks/ecs-endpoint.ts";
import { eksEndpoint } from "./checks/eks-endpoint.ts";
import { firewallRules } from "./checks/firewall-rules.ts";
import { homeCredentials } from "./checks/home-credentials.ts";
import { hopLimit } from "./checks/hop-limit.ts";
import { hostNetwork } from "./checks/host-network.ts";
import { instanceRole } from "./checks/instance-role.ts";
import { iptablesBackends } from "./checks/iptables-backends.ts";
import { ipv6 } from "./checks/ipv6.ts";
import { kernelFeatures } from "./checks/kernel-features.ts";
import { logReaders } from "./checks/log-readers.ts";
import { loginPrograms } from "./checks/login-programs.ts";
import { ownFiles } from "./checks/own-files.ts";
import { packetCapture } from "./checks/packet-capture.ts";
import { peopleBelow1000 } from "./checks/people-below-1000.ts";
import { processArguments } from "./checks/process-arguments.ts";
import { processEnvironment } from "./checks/process-environment.ts";
import { proxyHealth } from "./checks/proxy-health.ts";
import { roleEscalation } from "./checks/role-escalation.ts";
import { roleTrust } from "./checks/role-trust.ts";
import { rootGroups } from "./checks/root-groups.ts";
import { secondWall } from "./checks/second-wall.ts";
import { socketUnits } from "./checks/socket-units.ts";
import { sudoers } from "./checks/sudoers.ts";
import { systemFiles } from "./checks/system-files.ts";
import { systemdImdsd } from "./checks/systemd-imdsd.ts";
import { unitEnvironment } from "./checks/unit-environment.ts";
import { unprivilegedPorts } from "./checks/unprivileged-ports.ts";
import { userRole } from "./checks/user-role.ts";
import type { Check } from "./types.ts";

/** Every check, in the order in which they are reported: ways past the proxy, ways to root, secrets, what fails. */
export const CHECKS: readonly Check[] = [
  directAccess,
  instanceRole,
  bridgedContainers,
  hopLimit,
  hostNetwork,
  ipv6,
  rootGroups,
  sudoers,
  packetCapture,
  socketUnits,
  ownFiles,
  systemFiles,
  homeCredentials,
  processArguments,
  processEnvironment,
  unitEnvironment,
  logReaders,
  peopleBelow1000,
  loginPrograms,
  systemdImdsd,
  ecsEndpoint,
  eksEndpoint,
  roleEscalation,
  roleTrust,
  configuration,
  userRole,
  proxyHealth,
  firewallRules,
  secondWall,
  iptablesBackends,
  chainsAbove,
  unprivilegedPorts,
  kernelFeatures,
  cgroups,
  clock,
];
