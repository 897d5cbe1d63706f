import { type Check, look } from "../types.ts";
import { useOf } from "../usable.ts";

/** Files and directories of credentials in a home, each with what it holds. */
export const HOME_FILES: Readonly<Record<string, string>> = {
  ".aws/credentials": "keys of the AWS CLI and SDKs",
  ".aws/config": "settings of the AWS CLI, which may hold keys",
  ".aws/sso/cache": "tokens of IAM Identity Center",
  ".aws/cli/cache": "sessions that the AWS CLI keeps",
  ".s3cfg": "keys of s3cmd",
  ".boto": "keys of boto and gsutil",
  ".passwd-s3fs": "keys of s3fs",
  ".rclone.conf": "keys of rclone",
  ".config/rclone/rclone.conf": "keys of rclone",
};
/** Files that usually hold no secret: they count only where they hold one. */
export const SETTINGS: readonly string[] = [".aws/config"];

export const homeCredentials: Check = {
  id: "home-credentials",
  title: "files of AWS credentials in homes that other users can read",
  level: "open",
  why: "whoever reads them acts as their owner in AWS",
  remedy: "close the file to others",
  command: "chmod go-rwx FILE",
  explain: [
    `Looks, as the user, for ${Object.keys(HOME_FILES).join(", ")} in the homes of local accounts and of users with running processes. The mode of a file and those of the directories above it decide; .aws/config counts only if it has keys in it, which a process of that user looks for. Doctor never opens a user's file as root, and neither keeps nor prints its content. No link below a home is followed.`,
    "Homes on network file systems (NFS, Lustre and others) are left out unless --network-homes is given, and a home that does not answer within 3 s is left out and named.",
  ],
  run: ({ homeFiles }) =>
    look(homeFiles, (files) =>
      files.map((file) => ({
        what: useOf(file),
        command: `chmod go-rwx ${file.path}`,
      })),
    ),
};
