import { EKS_ENDPOINTS } from "../endpoints.ts";
import { containerCredentials } from "./container-credentials.ts";

export const eksEndpoint = containerCredentials({
  id: "eks-endpoint",
  title: "the EKS Pod Identity agent's endpoint of credentials",
  gives: "a pod's credentials to whoever has the pod's token",
  who: "EKS",
  remedy: "let no users log in to a node of EKS, or keep them from that address",
  endpoints: EKS_ENDPOINTS,
});
