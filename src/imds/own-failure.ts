/** Why a caller has no session, or no newer one, in words that they may read. */
export interface OwnFailure {
  readonly message: string;
  /** When it was first so: ISO 8601, UTC. */
  readonly since: string;
  readonly remedy: string;
}
