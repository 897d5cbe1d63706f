/**
 * Reduces text that users choose to printable ASCII, for a terminal, a line of a table or a comment in a file. So it can hold no
 * escape sequence, no line end and no right-to-left mark. Other letters are lost, too. Pure.
 */
export function plainText(text: string, longest: number): string {
  // Cut first, so that a long text costs nothing.
  const plain = text.slice(0, longest + 1).replaceAll(/[^ -~]/g, "?");
  return plain.length > longest ? `${plain.slice(0, Math.max(0, longest - 1))}~` : plain;
}
