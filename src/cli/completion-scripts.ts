import { type ArgumentInfo, type CommandInfo, everyCommand } from "./describe.ts";

/** Scripts that complete command lines in a shell, made of the commands' definitions; pure. */

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

/** The flag that every command takes. */
const HELP: ArgumentInfo = {
  name: "--help",
  kind: "flag",
  description: "Show the help",
  hint: null,
  required: false,
};

/** The words that may follow a command, each with its description. */
function wordsAfter({ path, args, subCommands }: CommandInfo): { word: string; description: string }[] {
  return [
    ...subCommands.map((sub) => ({ word: sub.path.at(-1) ?? "", description: sub.description })),
    ...(path.length === 0 ? [{ word: "help", description: "Show help on a command or a topic" }] : []),
    ...(path.length === 0 ? [{ word: "--version", description: "Print the version" }] : []),
    ...[...args.filter(({ kind }) => kind !== "positional"), HELP].map(({ name, description }) => ({
      word: name,
      description,
    })),
  ];
}

/** From what a value is completed. */
type Values = "files" | "users" | "none";
function valuesOf(hint: string | null): Values {
  if (hint === "FILE") return "files";
  return hint?.startsWith("USER") === true ? "users" : "none";
}

const pathText = ({ path }: CommandInfo): string => path.join(" ");

/** Flags with a value, by what completes it: `--config` -> files. Flags of the same name mean the same in all commands. */
function valueFlags(commands: readonly CommandInfo[]): Map<Values, string[]> {
  const flags = new Map<Values, string[]>();
  for (const { args } of commands) {
    for (const { name, kind, hint } of args) {
      if (kind !== "value") continue;
      const values = valuesOf(hint);
      const known = flags.get(values) ?? [];
      if (!known.includes(name)) flags.set(values, [...known, name]);
    }
  }
  return flags;
}

const positionalOf = ({ args }: CommandInfo): Values =>
  valuesOf(args.find(({ kind }) => kind === "positional")?.hint ?? null);

function bash(commands: readonly CommandInfo[]): string {
  const flags = valueFlags(commands);
  const more = { files: "_imdsproxy_files", users: "_imdsproxy_users", none: "" };
  return `# Completion of imdsproxy in bash: source <(imdsproxy completion bash)
# Names of files and accounts can hold shell commands, so they are quoted: files by readline, accounts by printf %q.
_imdsproxy_files() {
  local found
  mapfile -t found < <(compgen -f -- "$cur")
  COMPREPLY+=("\${found[@]}")
  compopt -o filenames 2>/dev/null
}
_imdsproxy_users() {
  local name
  while IFS= read -r name; do
    printf -v name %q "$name"
    COMPREPLY+=("$name")
  done < <(compgen -u -- "$cur")
}
_imdsproxy() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at= word i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "\${at:+$at }$word" in
      ${commands
        .slice(1)
        .map((one) => `'${pathText(one)}'`)
        .join("|")}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$prev" in
${[...flags].map(([values, names]) => `    ${names.join("|")}) ${values === "none" ? "" : `${more[values]}; `}return ;;`).join("\n")}
  esac
  case "$at" in
${commands
  .map((one) => {
    const words = wordsAfter(one)
      .map(({ word }) => word)
      .join(" ");
    const values = positionalOf(one);
    const then = values === "none" ? "" : ` ${more[values]} ;`;
    return `    '${pathText(one)}') mapfile -t COMPREPLY < <(compgen -W '${words}' -- "$cur");${then};`;
  })
  .join("\n")}
  esac
}
complete -F _imdsproxy imdsproxy
`;
}

/** In single quotes, as bash, zsh and POSIX shells read them. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

function zsh(commands: readonly CommandInfo[]): string {
  const flags = valueFlags(commands);
  const action = { files: "_files", users: "_users", none: "_message value" };
  return `#compdef imdsproxy
# Completion of imdsproxy in zsh: put it into a directory of $fpath as _imdsproxy, or: source <(imdsproxy completion zsh)
_imdsproxy() {
  local at= word
  local -a found
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "\${at:+$at }$word" in
      ${commands
        .slice(1)
        .map((one) => `(${quoted(pathText(one))})`)
        .join("|")}) at="\${at:+$at }$word" ;;
    esac
  done
  case "$words[CURRENT-1]" in
${[...flags].map(([values, names]) => `    (${names.join("|")}) ${action[values]}; return ;;`).join("\n")}
  esac
  case "$at" in
${commands
  .map((one) => {
    const words = wordsAfter(one)
      .map(({ word, description }) => quoted(`${word}:${description.replaceAll(":", "\\:")}`))
      .join(" ");
    const values = positionalOf(one);
    const more = values === "none" ? "" : `; ${action[values]}`;
    return `    (${quoted(pathText(one))}) found=(${words}); _describe imdsproxy found${more} ;;`;
  })
  .join("\n")}
  esac
}
if [[ $funcstack[1] == _imdsproxy ]]; then _imdsproxy "$@"; else compdef _imdsproxy imdsproxy; fi
`;
}

/** In single quotes, as fish reads them: a backslash escapes there (fish-doc, "Quotes"). */
const fishQuoted = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

function fish(commands: readonly CommandInfo[]): string {
  const paths = commands.slice(1).map((one) => fishQuoted(pathText(one)));
  const complete = (one: CommandInfo): string[] => {
    const condition = fishQuoted(`__imdsproxy_at ${fishQuoted(pathText(one))}`);
    const line = `complete -c imdsproxy -n ${condition}`;
    const values = positionalOf(one);
    const args = [...one.args, HELP].filter(({ kind }) => kind !== "positional");
    return [
      ...wordsAfter(one)
        .filter(({ word }) => !word.startsWith("--"))
        .map(({ word, description }) => `${line} -a ${word} -d ${fishQuoted(description)}`),
      ...(one.path.length === 0 ? [`${line} -l version -d 'Print the version'`] : []),
      ...args.map(({ name, kind, hint, description }) => {
        const completed = { files: " -r -F", users: " -x -a '(__fish_complete_users)'", none: " -x" }[
          valuesOf(hint)
        ];
        return `${line} -l ${name.slice(2)}${kind === "flag" ? "" : completed} -d ${fishQuoted(description)}`;
      }),
      ...(values === "users" ? [`${line} -a '(__fish_complete_users)'`] : []),
      ...(values === "files" ? [`${line} -F`] : []),
    ];
  };
  return `# Completion of imdsproxy in fish: imdsproxy completion fish >~/.config/fish/completions/imdsproxy.fish
function __imdsproxy_at
    set -l at
    for word in (commandline -opc)[2..-1]
        if contains -- "$at$word" ${paths.join(" ")}
            set at "$at$word "
        end
    end
    test (string trim -- "$at ") = "$argv[1]"
end
complete -c imdsproxy -f
${commands.flatMap(complete).join("\n")}
`;
}

/** The script of a shell. */
export function completionScript(shell: Shell, program: CommandInfo): string {
  const commands = everyCommand(program);
  return { bash, zsh, fish }[shell](commands);
}
