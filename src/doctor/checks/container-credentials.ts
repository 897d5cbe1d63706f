import { type Endpoint, endpointText } from "../../identity/endpoint.ts";
import { type Check, look } from "../types.ts";

/**
 * The check of an agent that gives containers their credentials, at addresses that the proxy does not guard.
 *
 * @param agent.gives what it gives, and to whom; the subject of the sentence is the agent.
 * @param agent.who the name of the agent in the finding.
 */
export const containerCredentials = (agent: {
  readonly id: string;
  readonly title: string;
  readonly gives: string;
  readonly who: string;
  readonly remedy: string;
  readonly endpoints: readonly [Endpoint, ...Endpoint[]];
}): Check => {
  const places = agent.endpoints.map(endpointText);
  return {
    id: agent.id,
    title: agent.title,
    level: "warning",
    why: `it gives ${agent.gives}; the proxy does not guard it`,
    remedy: agent.remedy,
    command: `iptables -I OUTPUT -d ${agent.endpoints[0].address} -m owner ! --uid-owner 0-0 -j REJECT`,
    explain: [`Connects as the user to ${places.join(" and ")}, by the same probe as \`direct-access\`.`],
    run: ({ containerEndpoints }) =>
      look(containerEndpoints, (open) =>
        places
          .filter((place) => open.includes(place))
          .map((place) => ({ what: `users can connect to ${place}, where ${agent.who} gives credentials` })),
      ),
  };
};
