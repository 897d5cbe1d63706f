import { endpointText } from "../../identity/endpoint.ts";
import { ECS_ENDPOINTS } from "../endpoints.ts";
import { type Check, look } from "../types.ts";

export const ecsEndpoint: Check = {
  id: "ecs-endpoint",
  title: "the ECS agent's endpoint of credentials",
  level: "warning",
  why: "it gives a task's credentials to whoever knows the task's path; the proxy does not stand before it",
  remedy: "run no ECS tasks on a node with users, or keep users from that address",
  command: "iptables -I OUTPUT -d 169.254.170.2 -m owner ! --uid-owner 0-0 -j REJECT",
  explain: [
    `Connects as the user to ${ECS_ENDPOINTS.map(endpointText).join(" and ")}, by the same probe as \`direct-access\`.`,
  ],
  run: ({ containerEndpoints }) =>
    look(containerEndpoints, (open) =>
      ECS_ENDPOINTS.map(endpointText)
        .filter((place) => open.includes(place))
        .map((place) => ({ what: `users can connect to ${place}, where the ECS agent gives credentials` })),
    ),
};
