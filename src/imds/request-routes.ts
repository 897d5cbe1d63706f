import type { Request } from "../http/request.ts";
import type { Policy } from "./decisions.ts";
import { Refusal } from "./refusal.ts";
import { parseRoute, type Route } from "./routes.ts";
import { isAuthority, originForm } from "./target.ts";

/** The routes that heads of requests lead to. */
export class RequestRoutes {
  /** http/recent-heads.ts gives the same request for the same head again. */
  readonly #known = new WeakMap<Request, { readonly policy: Policy; readonly route: Route }>();

  /** The route that a request's head leads to. @throws Refusal where the target or a header is not one that is taken. */
  of(request: Request, policy: Policy): Route {
    const known = this.#known.get(request);
    if (known?.policy === policy) return known.route;
    const { categories, authorities } = policy;
    if (request.headers.has("x-forwarded-for")) throw new Refusal(403, "request", "X-Forwarded-For");
    const host = request.headers.get("host");
    if (host !== undefined && !isAuthority(host, authorities)) {
      throw new Refusal(403, "request", "Host is no name of the metadata service");
    }
    const target = originForm(request.target, authorities);
    if (target === null) {
      const why = "the target is neither a path nor a URL of the metadata service";
      throw new Refusal(400, "request", why);
    }
    const route = parseRoute(target, categories);
    this.#known.set(request, { policy, route });
    return route;
  }
}
