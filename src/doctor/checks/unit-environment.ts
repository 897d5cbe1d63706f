import { type Check, look } from "../types.ts";

export const unitEnvironment: Check = {
  id: "unit-environment",
  title: "AWS secrets and metadata settings in the Environment= of units",
  level: "open",
  why: "every user may read the Environment= of a unit (systemctl show), secrets included",
  remedy:
    "put secrets into a file with LoadCredential=, or leave them to the metadata service; take AWS_EC2_METADATA_… out",
  command: "systemctl cat UNIT; systemctl edit UNIT",
  explain: [
    "Asks systemd for Environment= and EnvironmentFile= of every loaded service. Secrets in Environment= are open to everybody. A setting of AWS_EC2_METADATA_SERVICE_ENDPOINT or AWS_EC2_METADATA_DISABLED is a warning: the service then does not get its role by the metadata address.",
  ],
  run: ({ units }) =>
    look(units, (all) =>
      all.flatMap(({ name, secretVariables, metadataVariables }) => [
        ...(secretVariables.length === 0
          ? []
          : [{ what: `${name} has ${secretVariables.join(", ")} in its Environment=` }]),
        ...(metadataVariables.length === 0
          ? []
          : [
              {
                what: `${name} sets ${metadataVariables.join(", ")}, so that it does not get its role at the metadata address`,
                level: "warning" as const,
              },
            ]),
      ]),
    ),
};
