import { type Check, look } from "../types.ts";

export const hopLimit: Check = {
  id: "hop-limit",
  title: "a hop limit with which containers get tokens",
  level: "warning",
  why: "with more than one hop, a container behind a bridge gets a token of the metadata service's version 2",
  remedy: "set the instance's hop limit to 1, unless containers need the instance role",
  command: "aws ec2 modify-instance-metadata-options --instance-id ID --http-put-response-hop-limit 1",
  explain: [
    "Measures how many hops the answer to a request for a token may travel, by letting the kernel drop answers whose TTL is below 2 (IP_MINTTL, ip(7)). It matters only where containers are on bridges and `containers` is `leave`: elsewhere it is not reported.",
  ],
  run({ config, bridges, hopLimit }) {
    const matters =
      config.kind === "known" &&
      config.value.containers === "leave" &&
      bridges.kind === "known" &&
      bridges.value.length > 0;
    if (!matters) return [];
    return look(hopLimit, (limit) =>
      limit > 1 ? [{ what: `answers with a token travel ${limit} hops or more` }] : [],
    );
  },
};
