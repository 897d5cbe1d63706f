import { z } from "zod";
import { configSchema } from "./schema.ts";

/** The part of a JSON Schema that says which keys a mapping has. */
interface Shape {
  readonly properties?: Readonly<Record<string, Shape>>;
  readonly items?: Shape;
  readonly anyOf?: readonly Shape[];
}

/** The configuration as a JSON Schema (draft 2020-12), as `config schema` prints it. */
export const configJsonSchema = () => z.toJSONSchema(configSchema, { io: "input", unrepresentable: "any" });

/** The same as text, as `config schema` prints it and a release publishes it. */
export const configSchemaText = (): string => `${JSON.stringify(configJsonSchema(), null, 2)}\n`;

/**
 * The first line of a configuration for editors with yaml-language-server. The schema's place is relative to the file: so the line holds
 * on a node, where setup puts the schema beside it, and where an operator keeps a release's.
 */
export const SCHEMA_LINE = "# yaml-language-server: $schema=config.schema.json";

/** Made when the first unknown key is found, then kept: it takes milliseconds, and a file may have many unknown keys. */
let root: Shape | null = null;

/**
 * The keys that the schema has in the mapping at `path`; none where it has no mapping there, or one of any keys.
 *
 * @param path keys and places in lists, from the top of the file.
 */
export function knownKeys(path: readonly PropertyKey[]): readonly string[] {
  root ??= configJsonSchema() as Shape;
  let shapes: readonly Shape[] = [root];
  for (const step of path) {
    shapes = alternatives(shapes).flatMap(({ properties, items }) => {
      const key = String(step);
      const next =
        typeof step === "number"
          ? items
          : Object.hasOwn(properties ?? {}, key)
            ? properties?.[key]
            : undefined;
      return next === undefined ? [] : [next];
    });
  }
  return alternatives(shapes).flatMap(({ properties }) => Object.keys(properties ?? {}));
}

const alternatives = (shapes: readonly Shape[]): Shape[] =>
  shapes.flatMap((shape) => [shape, ...alternatives(shape.anyOf ?? [])]);
