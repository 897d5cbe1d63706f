import type { ArgsDef, CommandDef } from "citty";

type AnyCommand = CommandDef<ArgsDef>;

// A command's arguments are its own type; the table only needs to know that it is a command.
// biome-ignore lint/suspicious/noExplicitAny: CommandDef is invariant in its arguments
const lazy = (load: () => Promise<{ default: CommandDef<any> }>) => async (): Promise<AnyCommand> =>
  (await load()).default;

/**
 * Every command, loaded when it is called: `--help`, `whoami` and `iptables status` must answer at once, so nothing here
 * may pull in the AWS SDK.
 */
export const root: AnyCommand = {
  meta: {
    name: "imdsproxy",
    description: "Gives the users of a shared AWS node a role of their own; root keeps the instance role.",
  },
  subCommands: {
    serve: lazy(() => import("./serve.ts")),
    status: lazy(() => import("./status.ts")),
    whoami: lazy(() => import("./whoami.ts")),
    warm: lazy(() => import("./warm.ts")),
    observe: lazy(() => import("./observe.ts")),
    setup: lazy(() => import("./setup.ts")),
    service: lazy(() => import("./service.ts")),
    iptables: lazy(() => import("./iptables.ts")),
    doctor: lazy(() => import("./doctor.ts")),
    explain: lazy(() => import("./explain.ts")),
    iam: lazy(() => import("./iam.ts")),
    config: lazy(() => import("./config.ts")),
    demo: lazy(() => import("./demo.ts")),
    completion: lazy(() => import("./completion.ts")),
    man: lazy(() => import("./man.ts")),
    version: lazy(() => import("./version.ts")),
    "as-user": lazy(() => import("./as-user.ts")),
    "demo-ask": lazy(() => import("./demo-ask.ts")),
    "resolve-names": lazy(() => import("./resolve-names.ts")),
    "doctor-look": lazy(() => import("./doctor-look.ts")),
    "demo-part": lazy(() => import("./demo-part.ts")),
  },
};
