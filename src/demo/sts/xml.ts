/** The XML of AWS's query protocol (https://smithy.io/2.0/aws/protocols/aws-query-protocol.html). */
import { randomUUID } from "node:crypto";

const NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/";

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&apos;",
};

/** `<name>text</name>` */
export function element(name: string, text: string): string {
  return `<${name}>${text.replaceAll(/[&<>"']/g, (character) => ENTITIES[character] ?? "")}</${name}>`;
}

/** The answer to an action that succeeded. */
export function responseXml(action: string, result: readonly string[]): string {
  const metadata = `<ResponseMetadata>${element("RequestId", randomUUID())}</ResponseMetadata>`;
  return `<${action}Response xmlns="${NAMESPACE}"><${action}Result>${result.join("")}</${action}Result>${metadata}</${action}Response>\n`;
}

/** The answer to one that failed: `Sender` where the client is at fault, else `Receiver`. */
export function errorXml(type: "Sender" | "Receiver", code: string, message: string): string {
  const error = [element("Type", type), element("Code", code), element("Message", message)];
  return `<ErrorResponse xmlns="${NAMESPACE}"><Error>${error.join("")}</Error>${element("RequestId", randomUUID())}</ErrorResponse>\n`;
}
