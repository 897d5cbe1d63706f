/**
 * A glob over a cgroup's path: `*` is any run of characters within one segment, `**` any run at all, `?` one character of
 * a segment; every other character stands for itself. The glob is held against the whole path.
 */
export function globToRegExp(glob: string): RegExp {
  const source = glob.replaceAll(/\*\*|\*|\?|[.+^${}()|[\]\\]/g, (part) => {
    if (part === "**") return ".*";
    if (part === "*") return "[^/]*";
    return part === "?" ? "[^/]" : `\\${part}`;
  });
  return new RegExp(`^${source}$`, "s");
}
