/** Finds out whether a text has AWS secrets in it, and reports nothing else of it. Pure. */

/** Variables that hold a secret of AWS's (AWS SDKs and Tools Reference Guide, "Environment variables"). */
export const SECRET_VARIABLES: readonly string[] = [
  "AWS_SECRET_ACCESS_KEY",
  "AWS_SESSION_TOKEN",
  "AWS_SECURITY_TOKEN",
  "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];
/** Variables that name a file of credentials. */
export const FILE_VARIABLES: readonly string[] = [
  "AWS_SHARED_CREDENTIALS_FILE",
  "AWS_CONFIG_FILE",
  "AWS_WEB_IDENTITY_TOKEN_FILE",
  "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
  "BOTO_CONFIG",
  "RCLONE_CONFIG",
];
/** Variables that change where an SDK asks for the instance's credentials, or whether. */
export const METADATA_VARIABLES: readonly string[] = [
  "AWS_EC2_METADATA_SERVICE_ENDPOINT",
  "AWS_EC2_METADATA_DISABLED",
];

/** A setting with a value, in a file of variables or of the AWS CLI's: in either case of letters. */
const SETTING =
  /(?:^|[\s"';,{])(?:export\s+)?(?:AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|AWS_SECURITY_TOKEN)["']?\s*[=:]\s*["']?[^\s"']/i;
/** An access key's id with its secret behind it, as `ID:SECRET`. */
const PAIR = /\b(?:AKIA|ASIA)[A-Z2-7]{16}[:,\s]\s*[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])/;
const OPTION = /^--?(?:aws[-_])?(?:secret(?:[-_]access)?[-_]key|session[-_]token)(?:=(.+))?$/i;

/** Whether a text has an AWS secret in it. */
export const hasSecret = (text: string): boolean => SETTING.test(text) || PAIR.test(text);

/** Whether the arguments of a program do. */
export function argumentsHaveSecret(argv: readonly string[]): boolean {
  return argv.some((argument, i) => {
    if (hasSecret(argument)) return true;
    const option = OPTION.exec(argument);
    if (option === null) return false;
    // A file or a variable that is named is no secret; a value that follows is.
    const value = option[1] ?? argv[i + 1] ?? "";
    return value.length >= 16 && !/^[-/$]/.test(value);
  });
}

/** The variables of a list that an environment has with a value. */
export const namesIn = (environment: readonly string[], names: readonly string[]): string[] =>
  names.filter((name) =>
    environment.some((one) => one.startsWith(`${name}=`) && one.length > name.length + 1),
  );

/** Absolute paths that the variables of a list have in an environment. */
export const pathsIn = (environment: readonly string[], names: readonly string[]): string[] =>
  names.flatMap((name) => {
    const value = environment.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
    return value.startsWith("/") && value.length < 4_096 ? [value] : [];
  });
