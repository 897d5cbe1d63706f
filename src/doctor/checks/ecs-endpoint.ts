import { ECS_ENDPOINTS } from "../endpoints.ts";
import { containerCredentials } from "./container-credentials.ts";

export const ecsEndpoint = containerCredentials({
  id: "ecs-endpoint",
  title: "the ECS agent's endpoint of credentials",
  gives: "a task's credentials to whoever knows the task's path",
  who: "the ECS agent",
  remedy: "run no ECS tasks on a node with users, or keep users from that address",
  endpoints: ECS_ENDPOINTS,
});
