import { type Check, look } from "../types.ts";

/** Actions by which a role of users gets more than it has, each with what it gives. */
export const ESCALATIONS: Readonly<Record<string, string>> = {
  "ssm:SendCommand": "runs commands as root on nodes with the SSM agent",
  "ssm:StartSession": "opens a shell on nodes with the SSM agent, from which sudo leads to root",
  "ec2-instance-connect:SendSSHPublicKey": "logs in as any account of an instance",
  "ec2:ModifyInstanceAttribute": "changes the user data that root runs at the next start",
  "iam:PassRole": "gives a role to something that it starts",
  "iam:CreateAccessKey": "makes keys of another identity",
  "iam:AttachRolePolicy": "gives a role any policy",
  "iam:PutRolePolicy": "gives a role any policy",
  "iam:UpdateAssumeRolePolicy": "lets itself assume a role",
  "iam:CreatePolicyVersion": "changes a policy that it has",
  "lambda:UpdateFunctionCode": "runs code with a function's role",
  "sagemaker:UpdateClusterSoftware": "replaces what root runs on a HyperPod cluster",
};

export const roleEscalation: Check = {
  id: "role-escalation",
  title: "roles of users that can give themselves more",
  level: "open",
  why: "with such a permission a user gets root on the node, or another role, by AWS's own interfaces",
  remedy: "take the action from the role's policies, or limit it to resources that are the user's",
  command: "aws iam simulate-principal-policy --policy-source-arn ROLE --action-names ACTION",
  explain: [
    `Asks IAM, with the instance role, whether each role of the configuration may do ${Object.keys(ESCALATIONS).join(", ")} on every resource (iam:SimulatePrincipalPolicy). Most instance roles may not ask that; then the check is reported as not done. The actions are only simulated. What is allowed on some resources only is not found.`,
  ],
  run: ({ simulations }) =>
    look(simulations, (all) =>
      all.flatMap(({ roleArn, allowed }) =>
        allowed.map((action) => ({
          what: `${roleArn} may do ${action}, which ${ESCALATIONS[action] ?? "gives more than it has"}`,
        })),
      ),
    ),
};
