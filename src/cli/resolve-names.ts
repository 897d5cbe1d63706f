import { defineCommand } from "citty";

export default defineCommand({
  meta: {
    name: "resolve-names",
    hidden: true,
    description: "Asks NSS for names, for the process that started it (by standard input and output)",
  },
  async run() {
    const { answerQuestions } = await import("../identity/name-answers.ts");
    answerQuestions();
  },
});
