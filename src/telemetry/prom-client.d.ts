/** Parts of prom-client by their paths, which its types do not name. */
declare module "prom-client/lib/gauge.js" {
  export { Gauge as default } from "prom-client";
}

declare module "prom-client/lib/registry.js" {
  export { Registry as default } from "prom-client";
}
