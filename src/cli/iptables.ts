import { defineCommand } from "citty";
import { addProxy, apply, blockDirect, remove, removeProxy, unblockDirect } from "./iptables/change.ts";
import { checkDirect } from "./iptables/check-direct.ts";
import { removeOriginal, restoreOriginal } from "./iptables/original.ts";
import { list, status } from "./iptables/report.ts";

export default defineCommand({
  meta: { name: "iptables", description: "The firewall: who reaches the instance role, and who the proxy" },
  subCommands: {
    apply,
    remove,
    status,
    list,
    "add-proxy": addProxy,
    "remove-proxy": removeProxy,
    "block-direct": blockDirect,
    "unblock-direct": unblockDirect,
    "remove-original": removeOriginal,
    "restore-original": restoreOriginal,
    "check-direct": checkDirect,
    watch: () => import("./iptables-watch.ts").then((file) => file.default),
  },
});
