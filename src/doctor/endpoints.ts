import type { Endpoint } from "../identity/endpoint.ts";

/** Where ECS's agent answers (Amazon ECS Developer Guide, "Task IAM role": 169.254.170.2, which its own rule leads to 127.0.0.1:51679). */
export const ECS_ENDPOINTS: readonly [Endpoint, ...Endpoint[]] = [
  { address: "169.254.170.2", port: 80 },
  { address: "127.0.0.1", port: 51679 },
];

/** Where EKS's agent answers (Amazon EKS User Guide, "How EKS Pod Identity works"). */
export const EKS_ENDPOINTS: readonly [Endpoint, ...Endpoint[]] = [
  { address: "169.254.170.23", port: 80 },
  { address: "fd00:ec2::23", port: 80 },
];
