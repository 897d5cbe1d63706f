/**
 * Text that users choose, made fit for a terminal, a line of a table and a comment of a file: printable ASCII alone. Others'
 * letters are lost, which is the price of showing no escape sequence, no line end and nothing that reads from right to left. Pure.
 */
export function plainText(text: string, longest: number): string {
  // Cut first, so that a long text costs nothing.
  const plain = text.slice(0, longest + 1).replaceAll(/[^ -~]/g, "?");
  return plain.length > longest ? `${plain.slice(0, Math.max(0, longest - 1))}~` : plain;
}
