import { endpointText } from "../../identity/endpoint.ts";
import { EKS_ENDPOINTS } from "../endpoints.ts";
import { type Check, look } from "../types.ts";

export const eksEndpoint: Check = {
  id: "eks-endpoint",
  title: "the EKS Pod Identity agent's endpoint of credentials",
  level: "warning",
  why: "it gives a pod's credentials to whoever has the pod's token; the proxy does not stand before it",
  remedy: "let no users log in to a node of EKS, or keep them from that address",
  command: "iptables -I OUTPUT -d 169.254.170.23 -m owner ! --uid-owner 0-0 -j REJECT",
  explain: [
    `Connects as the user to ${EKS_ENDPOINTS.map(endpointText).join(" and ")}, by the same probe as \`direct-access\`.`,
  ],
  run: ({ containerEndpoints }) =>
    look(containerEndpoints, (open) =>
      EKS_ENDPOINTS.map(endpointText)
        .filter((place) => open.includes(place))
        .map((place) => ({ what: `users can connect to ${place}, where EKS gives credentials` })),
    ),
};
