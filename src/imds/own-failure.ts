/** Why STS gave a caller no session, or no newer one. The caller may read it. */
export interface OwnFailure {
  readonly message: string;
  /** When it failed first: ISO 8601, UTC. */
  readonly since: string;
  readonly remedy: string;
}
